#include "rpc/server.h"

#include <unistd.h>

#include <condition_variable>
#include <mutex>
#include <utility>

#include "rpc/acceptor.h"
#include "rpc/server_context.h"

namespace mesh::rpc {

// Start: certificates, socket, loops. Stop, in this order: no new connections, calls end, loops end.
class Server::Impl {
 public:
  explicit Impl(ServerOptions options) : context_(std::make_shared<ServerContext>(std::move(options))) {}

  Status Prepare();
  Status Start();
  bool Drain(std::chrono::milliseconds limit);
  void Stop();
  [[nodiscard]] ServerStats stats() const;

  [[nodiscard]] ServerContext& context() const { return *context_; }
  [[nodiscard]] const std::shared_ptr<EventLoop>& loop() const { return loops_.front()->shared_loop(); }
  [[nodiscard]] int port() const { return acceptor_ == nullptr ? 0 : acceptor_->port(); }
  [[nodiscard]] std::string address() const { return acceptor_ == nullptr ? std::string() : acceptor_->address(); }

 private:
  void Accepted(int fd);
  void StopAccepting();
  void LoopDrained();

  const std::shared_ptr<ServerContext> context_;
  std::unique_ptr<Acceptor> acceptor_;
  std::vector<std::unique_ptr<ServerLoop>> loops_;
  std::size_t next_loop_ = 0;  // on the acceptor's loop

  std::mutex mutex_;
  std::condition_variable drained_;
  std::size_t loops_busy_ = 0;
  bool draining_ = false;
  bool stopped_ = false;
  bool started_ = false;
};

Status Server::Impl::Prepare() {
  if (acceptor_ != nullptr) return {};
  const ServerOptions& options = context_->options;
  if (options.event_loops < 1) {
    return {Code::kInvalidArgument, "event_loops is " + std::to_string(options.event_loops) + ", at least 1 is needed"};
  }
  if (options.tls) {
    Result<std::shared_ptr<TlsContext>> tls = TlsContext::Server(*options.tls, context_->http != nullptr);
    if (!tls.ok()) return tls.status();
    context_->tls = std::move(tls).value();
  }
  Result<std::unique_ptr<Acceptor>> listening = Acceptor::Listen(options.host, options.port);
  if (!listening.ok()) return listening.status();
  for (int i = 0; i < options.event_loops; ++i) {
    Result<std::shared_ptr<EventLoop>> loop = EventLoop::Create("rpc-server-" + std::to_string(i), options.busy_poll);
    if (!loop.ok()) return loop.status();
    loops_.push_back(std::make_unique<ServerLoop>(context_, std::move(loop).value()));
    context_->unsent_by_loop.push_back(&loops_.back()->counters().bytes_unsent);
  }
  acceptor_ = std::move(listening).value();
  return {};
}

Status Server::Impl::Start() {
  if (started_) return {Code::kFailedPrecondition, "the server was started already"};
  if (Status prepared = Prepare(); !prepared.ok()) return prepared;
  Status accepting = acceptor_->Start(&loops_.front()->loop(), [this](int fd) { Accepted(fd); });
  if (!accepting.ok()) return accepting;
  for (const auto& loop : loops_) loop->loop().Start();
  started_ = true;
  return {};
}

void Server::Impl::Accepted(int fd) {
  if (context_->connections.fetch_add(1, std::memory_order_relaxed) >= context_->options.max_connections) {
    context_->connections.fetch_sub(1, std::memory_order_relaxed);
    context_->Log("connection rejected", "there are " + std::to_string(context_->options.max_connections) + " already");
    close(fd);
    return;
  }
  ServerLoop* chosen = loops_[next_loop_++ % loops_.size()].get();
  if (chosen->loop().InLoop()) {
    chosen->Adopt(fd);
  } else {
    chosen->loop().Post([chosen, fd] { chosen->Adopt(fd); });
  }
}

void Server::Impl::StopAccepting() {
  loops_.front()->loop().PostAndWait([this] { acceptor_->Stop(); });
}

bool Server::Impl::Drain(std::chrono::milliseconds limit) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (!started_ || stopped_) return true;
  if (!draining_) {
    draining_ = true;
    loops_busy_ = loops_.size();
    lock.unlock();
    StopAccepting();
    for (const auto& callback : context_->drain_callbacks) callback();
    for (const auto& loop : loops_) {
      loop->loop().Post([this, owner = loop.get()] { owner->BeginDrain([this] { LoopDrained(); }); });
    }
    lock.lock();
  }
  return drained_.wait_for(lock, limit, [this] { return loops_busy_ == 0; });
}

void Server::Impl::LoopDrained() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (loops_busy_ > 0) --loops_busy_;
  drained_.notify_all();
}

void Server::Impl::Stop() {
  bool drained = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!started_ || stopped_) return;
    stopped_ = true;
    drained = draining_;
  }
  StopAccepting();
  if (!drained) {
    for (const auto& callback : context_->drain_callbacks) callback();
  }
  for (const auto& loop : loops_) {
    loop->loop().PostAndWait([owner = loop.get()] { owner->AbortAll(); });
    loop->loop().Stop();
  }
  std::lock_guard<std::mutex> lock(mutex_);
  loops_busy_ = 0;  // a Drain on another thread need not wait for loops that have ended
  drained_.notify_all();
}

ServerStats Server::Impl::stats() const {
  ServerStats all;
  all.bytes_receiving = context_->budget->used();
  for (const auto& loop : loops_) {
    const LoopCounters& counters = loop->counters();
    all.connections_open += counters.connections_open.get();
    all.connections_total += counters.connections_total.get();
    all.calls_total += counters.calls_total.get();
    all.calls_open += counters.calls_open.get();
    all.bytes_received += counters.bytes_received.get();
    all.bytes_sent += counters.bytes_sent.get();
    all.bytes_unsent += counters.bytes_unsent.get();
    all.protocol_errors += counters.protocol_errors.get();
    all.loop_sleeps += loop->loop().sleeps();
  }
  return all;
}

Server::Server(ServerOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
Server::~Server() { Stop(); }

void Server::AddUnary(std::string path, UnaryHandler handler) {
  impl_->context().methods[std::move(path)] = {std::move(handler), nullptr};
}
void Server::AddStream(std::string path, StreamHandler handler) {
  impl_->context().methods[std::move(path)] = {nullptr, std::move(handler)};
}
std::vector<std::string> Server::paths() const {
  std::vector<std::string> all;
  for (const auto& [path, method] : impl_->context().methods) all.push_back(path);
  return all;
}
void Server::SetHttp(ConnectionFactory factory) { impl_->context().http = std::move(factory); }
void Server::OnDrain(std::function<void()> callback) {
  impl_->context().drain_callbacks.push_back(std::move(callback));
}

Status Server::Prepare() { return impl_->Prepare(); }
Status Server::Start() { return impl_->Start(); }
const std::shared_ptr<EventLoop>& Server::loop() const { return impl_->loop(); }
int Server::port() const { return impl_->port(); }
std::string Server::address() const { return impl_->address(); }
bool Server::Drain(std::chrono::milliseconds limit) { return impl_->Drain(limit); }
void Server::Stop() { impl_->Stop(); }
ServerStats Server::stats() const { return impl_->stats(); }

}  // namespace mesh::rpc
