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

Status ListenError(const std::string& host, int port, const std::string& cause) {
  std::string advice;
  if (errno == EADDRINUSE) advice = "; another process uses the port, choose a different one or 0 for any free one";
  if (errno == EACCES) advice = "; ports below 1024 need privileges";
  return {Code::kUnavailable, "cannot listen on " + host + ":" + std::to_string(port) + ": " + cause + advice};
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
  errno = 0;
  const int looked_up = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (looked_up != 0) return ListenError(host, port, gai_strerror(looked_up));
  const std::unique_ptr<addrinfo, FreeAddresses> addresses(found);
  const int fd = socket(addresses->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return ListenError(host, port, std::strerror(errno));
  const int one = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(fd, addresses->ai_addr, addresses->ai_addrlen) != 0 || listen(fd, kBacklog) != 0) {
    Status failed = ListenError(host, port, std::strerror(errno));
    close(fd);
    return failed;
  }
  const int bound = PortOf(fd);
  const std::string address = host.find(':') == std::string::npos ? host : "[" + host + "]";
  return std::unique_ptr<Acceptor>(new Acceptor(fd, bound, address + ":" + std::to_string(bound)));
}

Acceptor::Acceptor(int fd, int port, std::string address)
    : fd_(fd), spare_fd_(OpenSpare()), port_(port), address_(std::move(address)) {}

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
  if (loop_ != nullptr) loop_->Remove(fd_, this);
  close(fd_);
  fd_ = -1;
}

void Acceptor::OnReady(std::uint32_t /*events*/) {
  for (int turn = 0; turn < kAcceptsPerTurn && fd_ >= 0; ++turn) {
    const int fd = accept4(fd_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      accepted_(fd);
      continue;
    }
    if (errno == EMFILE || errno == ENFILE) {
      RefuseOne();
      continue;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) return;
    // ECONNABORTED and the like concern one connection that is gone already.
  }
}

void Acceptor::RefuseOne() {
  // Left in the backlog it would wake the loop for ever.
  if (spare_fd_ < 0) return;
  close(spare_fd_);
  const int fd = accept4(fd_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd >= 0) close(fd);
  spare_fd_ = OpenSpare();
}

}  // namespace mesh::rpc
