#include "ingress/metrics_server.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <exception>
#include <list>
#include <thread>
#include <utility>
#include <vector>

#include "common/log.h"
#include "ingress/failure.h"
#include "ingress/http_request.h"

namespace mesh::ingress {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

// How long no connection is taken when there are no descriptors: the listener would wake the loop all the time.
constexpr milliseconds kAcceptPause{100};

constexpr const char* kPrometheus = "text/plain; version=0.0.4; charset=utf-8";
constexpr const char* kPlain = "text/plain; charset=utf-8";

// A file descriptor with an owner.
class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd() {
    if (fd_ >= 0) close(fd_);
  }
  [[nodiscard]] int get() const { return fd_; }

 private:
  int fd_;
};

// One client: first its request comes in, then the answer goes out.
struct Connection {
  Fd fd;
  steady_clock::time_point until;
  std::string received;
  std::string answer;
  std::size_t sent = 0;
};

int BoundPort(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
  if (address.ss_family == AF_INET6) return ntohs(reinterpret_cast<sockaddr_in6*>(&address)->sin6_port);
  return ntohs(reinterpret_cast<sockaddr_in*>(&address)->sin_port);
}

// The error number goes to `cause` when it fails.
Fd ListenAt(const addrinfo& address, int* cause) {
  Fd fd(socket(address.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const int one = 1;
  if (fd.get() >= 0) setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
  const bool bound =
      fd.get() >= 0 && bind(fd.get(), address.ai_addr, address.ai_addrlen) == 0 && listen(fd.get(), 64) == 0;
  if (bound) return fd;
  *cause = errno;
  return Fd();
}

Result<Fd> Listen(const std::string& host, int port) {
  const std::string where = host + ":" + std::to_string(port);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found); error != 0) {
    return Status(Code::kInvalidArgument, "metrics address " + where + ": " + gai_strerror(error));
  }
  // "localhost" has an IPv6 address also where the machine has no IPv6: the first that works is taken.
  int cause = 0;
  Fd fd;
  for (const addrinfo* address = found; address != nullptr && fd.get() < 0; address = address->ai_next) {
    fd = ListenAt(*address, &cause);
  }
  freeaddrinfo(found);
  if (fd.get() >= 0) return fd;
  return Status(cause == EADDRINUSE ? Code::kAlreadyExists : Code::kUnavailable,
                "cannot serve metrics at " + where + ": " + std::strerror(cause));
}

}  // namespace

class MetricsServer::Impl {
 public:
  Impl(MetricsServerOptions options, std::function<Result<std::string>()> text)
      : options_(std::move(options)), text_(std::move(text)) {}
  ~Impl() { Stop(); }

  Status Start() {
    Result<Fd> listener = Listen(options_.host, options_.port);
    if (!listener.ok()) return listener.status();
    listener_ = std::move(listener).value();
    port_ = BoundPort(listener_.get());
    wake_ = Fd(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    if (wake_.get() < 0) return {Code::kInternal, std::string("eventfd: ") + std::strerror(errno)};
    thread_ = std::thread([this] { Run(); });
    return {};
  }

  void Stop() {
    if (!thread_.joinable()) return;
    const std::uint64_t one = 1;
    while (write(wake_.get(), &one, sizeof(one)) < 0 && errno == EINTR) {
    }
    thread_.join();
    connections_.clear();
    listener_ = Fd();
  }

  [[nodiscard]] int port() const { return port_; }
  [[nodiscard]] std::string address() const { return options_.host + ":" + std::to_string(port_); }

 private:
  void Run();
  void Accept();
  bool Serve(Connection* connection);
  void Read(Connection* connection, bool* alive);
  void Answer(Connection* connection, const HttpRequest& request);
  std::string Document(bool head_only);
  [[nodiscard]] int WaitMs(steady_clock::time_point now) const;

  MetricsServerOptions options_;
  std::function<Result<std::string>()> text_;
  Fd listener_;
  Fd wake_;
  int port_ = 0;
  std::list<Connection> connections_;        // of the thread
  steady_clock::time_point accept_after_{};  // of the thread
  std::thread thread_;
};

void MetricsServer::Impl::Run() {
  std::vector<pollfd> polled;
  while (true) {
    const bool full = connections_.size() >= options_.max_connections || steady_clock::now() < accept_after_;
    polled = {{wake_.get(), POLLIN, 0}, {full ? -1 : listener_.get(), POLLIN, 0}};
    for (const Connection& connection : connections_) {
      polled.push_back({connection.fd.get(),
                        static_cast<decltype(pollfd::events)>(connection.answer.empty() ? POLLIN : POLLOUT), 0});
    }
    if (poll(polled.data(), polled.size(), WaitMs(steady_clock::now())) < 0 && errno != EINTR) {
      log::Error("metrics server ends, poll failed", {{"reason", std::strerror(errno)}});
      return;
    }
    if (polled[0].revents != 0) return;
    const auto now = steady_clock::now();
    std::size_t index = 2;
    for (auto it = connections_.begin(); it != connections_.end(); ++index) {
      const bool alive = polled[index].revents == 0 || Serve(&*it);
      it = alive && now < it->until ? std::next(it) : connections_.erase(it);
    }
    if (polled[1].revents != 0) Accept();
  }
}

int MetricsServer::Impl::WaitMs(steady_clock::time_point now) const {
  const auto until = [now](steady_clock::time_point when) {
    const auto left = std::chrono::duration_cast<milliseconds>(when - now).count() + 1;
    return static_cast<int>(std::max<std::int64_t>(left, 0));
  };
  const int paused = now < accept_after_ ? until(accept_after_) : -1;
  if (connections_.empty()) return paused;
  const auto first = std::min_element(connections_.begin(), connections_.end(),
                                      [](const Connection& a, const Connection& b) { return a.until < b.until; });
  return paused < 0 ? until(first->until) : std::min(paused, until(first->until));
}

void MetricsServer::Impl::Accept() {
  Fd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (fd.get() < 0) {
    const bool gone = errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR || errno == ECONNABORTED;
    if (!gone) accept_after_ = steady_clock::now() + kAcceptPause;
    return;
  }
  connections_.push_back({std::move(fd), steady_clock::now() + options_.timeout, {}, {}, 0});
}

// True while the connection has more to do.
bool MetricsServer::Impl::Serve(Connection* connection) {
  bool alive = true;
  if (connection->answer.empty()) Read(connection, &alive);
  if (!alive || connection->answer.empty()) return alive;
  while (connection->sent < connection->answer.size()) {
    const ssize_t sent = send(connection->fd.get(), connection->answer.data() + connection->sent,
                              connection->answer.size() - connection->sent, MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN || errno == EINTR;
    connection->sent += static_cast<std::size_t>(sent);
  }
  return false;
}

void MetricsServer::Impl::Read(Connection* connection, bool* alive) {
  char buffer[2048];
  const ssize_t got = recv(connection->fd.get(), buffer, sizeof(buffer), 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  *alive = got > 0;
  if (!*alive) return;
  connection->received.append(buffer, static_cast<std::size_t>(got));
  const HttpRequest request = ParseHttpRequest(connection->received);
  if (request.state == HttpRequest::State::kComplete) return Answer(connection, request);
  if (request.state == HttpRequest::State::kBad) {
    connection->answer = HttpResponse(400, kPlain, "not an HTTP/1.1 request\n", false);
  } else if (connection->received.size() > options_.max_header_bytes) {
    connection->answer = HttpResponse(431, kPlain, "headers are too large\n", false);
  }
}

void MetricsServer::Impl::Answer(Connection* connection, const HttpRequest& request) {
  const bool head_only = request.method == "HEAD";
  connection->until = steady_clock::now() + options_.timeout;
  if (request.path != "/metrics") {
    connection->answer = HttpResponse(404, kPlain, "only /metrics is served here\n", head_only);
  } else if (request.method != "GET" && !head_only) {
    connection->answer = HttpResponse(405, kPlain, "only GET and HEAD are served\n", false);
  } else {
    connection->answer = Document(head_only);
  }
}

std::string MetricsServer::Impl::Document(bool head_only) {
  Status failure;
  try {
    Result<std::string> text = text_();
    if (text.ok()) return HttpResponse(200, kPrometheus, text.value(), head_only);
    failure = text.status();
  } catch (const std::exception& error) {
    failure = {Code::kInternal, error.what()};
  }
  return HttpResponse(500, kPlain, InternalFailure("metrics", failure.ToString()).message() + "\n", head_only);
}

MetricsServer::MetricsServer(MetricsServerOptions options, std::function<Result<std::string>()> text)
    : impl_(std::make_unique<Impl>(std::move(options), std::move(text))) {}
MetricsServer::~MetricsServer() = default;
Status MetricsServer::Start() { return impl_->Start(); }
int MetricsServer::port() const { return impl_->port(); }
std::string MetricsServer::address() const { return impl_->address(); }
void MetricsServer::Stop() { impl_->Stop(); }

}  // namespace mesh::ingress
