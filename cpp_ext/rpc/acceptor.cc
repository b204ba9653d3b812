#include "rpc/acceptor.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "rpc/transport.h"

namespace mesh::rpc {
namespace {

constexpr int kBacklog = 1024;
constexpr int kAcceptsPerTurn = 64;

// How long no connection is taken when there is no descriptor even to refuse them: the backlog would wake the loop all
// the time.
constexpr std::chrono::milliseconds kPause{100};

Status ListenError(const std::string& host, int port, const std::string& cause, const std::string& advice) {
  return {Code::kUnavailable, "cannot listen on " + host + ":" + std::to_string(port) + ": " + cause + advice};
}

Status ListenError(const std::string& host, int port, int error) {
  std::string advice;
  if (error == EADDRINUSE) advice = "; another process uses the port, choose a different one or 0 for any free one";
  if (error == EACCES) advice = "; ports below 1024 need privileges";
  if (error == EADDRNOTAVAIL) advice = "; no interface of this machine has the address";
  return ListenError(host, port, std::strerror(error), advice);
}

// A listening socket, or -1 with the error number in `error`.
int ListenAt(const addrinfo& address, int* error) {
  const int fd = socket(address.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  const int one = 1;
  if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (fd >= 0 && bind(fd, address.ai_addr, address.ai_addrlen) == 0 && listen(fd, kBacklog) == 0) return fd;
  *error = errno;
  if (fd >= 0) close(fd);
  return -1;
}

int PortOf(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  if (address.ss_family == AF_INET6) return ntohs(reinterpret_cast<const sockaddr_in6&>(address).sin6_port);
  return ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

int OpenSpare() { return open("/dev/null", O_RDONLY | O_CLOEXEC); }

struct FreeAddresses {
  void operator()(addrinfo* list) const { freeaddrinfo(list); }
};

}  // namespace

Result<std::unique_ptr<Acceptor>> Acceptor::Listen(const std::string& host, int port) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int looked_up = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (looked_up != 0) return ListenError(host, port, gai_strerror(looked_up), "");
  const std::unique_ptr<addrinfo, FreeAddresses> addresses(found);
  // "localhost" has an IPv6 address also where the machine has no IPv6: the first that works is taken.
  int fd = -1;
  int error = 0;
  for (const addrinfo* address = found; address != nullptr && fd < 0; address = address->ai_next) {
    fd = ListenAt(*address, &error);
  }
  if (fd < 0) return ListenError(host, port, error);
  const int bound = PortOf(fd);
  const std::string address = host.find(':') == std::string::npos ? host : "[" + host + "]";
  return std::unique_ptr<Acceptor>(new Acceptor(fd, bound, address + ":" + std::to_string(bound)));
}

Acceptor::Acceptor(int fd, int port, std::string address)
    : fd_(fd), spare_fd_(OpenSpare()), port_(port), address_(std::move(address)), resume_([this] { Watch(EPOLLIN); }) {}

Acceptor::~Acceptor() {
  if (fd_ >= 0) close(fd_);
  if (spare_fd_ >= 0) close(spare_fd_);
}

Status Acceptor::Start(EventLoop* loop, std::function<void(int fd)> accepted) {
  loop_ = loop;
  accepted_ = std::move(accepted);
  return loop->Add(fd_, EPOLLIN, this);
}

void Acceptor::Stop() {
  if (fd_ < 0) return;
  if (loop_ != nullptr) {
    loop_->Disarm(&resume_);
    loop_->Remove(fd_, this);
  }
  close(fd_);
  fd_ = -1;
}

void Acceptor::Watch(std::uint32_t events) { loop_->Modify(fd_, events, this); }

void Acceptor::OnReady(std::uint32_t /*events*/) {
  for (int turn = 0; turn < kAcceptsPerTurn && fd_ >= 0; ++turn) {
    const int fd = accept4(fd_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      accepted_(fd);
      continue;
    }
    switch (errno) {
      case EAGAIN: return;
      case EMFILE:
      case ENFILE:
        if (RefuseOne()) continue;
        [[fallthrough]];
      case ENOBUFS:
      case ENOMEM:
        Watch(0);
        loop_->Arm(&resume_, loop_->now() + kPause);
        return;
      default: continue;  // ECONNABORTED and the like concern one connection that is gone already
    }
  }
}

bool Acceptor::RefuseOne() {
  // Left in the backlog it would wake the loop for ever.
  if (spare_fd_ < 0) spare_fd_ = OpenSpare();
  if (spare_fd_ < 0) return false;
  close(spare_fd_);
  const int fd = accept4(fd_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd >= 0) close(fd);
  spare_fd_ = OpenSpare();
  return fd >= 0;
}

}  // namespace mesh::rpc
