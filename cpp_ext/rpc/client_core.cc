#include "rpc/client_core.h"

#include <algorithm>
#include <cmath>
#include <system_error>
#include <thread>
#include <utility>

#include "rpc/wire.h"

namespace mesh::rpc {
namespace {

constexpr std::size_t kMaxWaiting = 10000;
constexpr double kBackoffGrowth = 1.6;
constexpr double kJitter = 0.2;

}  // namespace

ClientCore::ClientCore(std::string address, ChannelOptions options)
    : address_(std::move(address)),
      options_(std::move(options)),
      connect_timer_([this] { OnConnectTimeout(); }),
      backoff_timer_([this] { OnBackoffOver(); }),
      random_(std::random_device{}()) {}

void ClientCore::Init(std::shared_ptr<EventLoop> loop) {
  Result<HostPort> target = ParseHostPort(address_);
  if (!target.ok()) {
    init_error_ = target.status();
    return;
  }
  target_ = std::move(target).value();
  if (options_.server_name.empty()) options_.server_name = target_.host;
  if (loop != nullptr) {
    loop_ = std::move(loop);
    return;
  }
  Result<std::shared_ptr<EventLoop>> own = EventLoop::Create("rpc-client");
  if (!own.ok()) {
    init_error_ = own.status();
    return;
  }
  loop_ = std::move(own).value();
  owns_loop_ = true;
  loop_->Start();
}

bool ClientCore::Post(std::function<void()> work) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (closed_ || loop_ == nullptr) return false;
  loop_->Post(std::move(work));
  return true;
}

void ClientCore::RunForCall(std::function<void()> work) { Post(std::move(work)); }

void ClientCore::Submit(const std::shared_ptr<CallState>& call) {
  if (Post([self = shared_from_this(), call] { self->StartCall(call); })) return;
  call->Finish(init_error_.ok() ? Status(Code::kCancelled, "the channel to " + address_ + " is closed") : init_error_);
}

void ClientCore::Close() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (std::exchange(closed_, true) || loop_ == nullptr) return;
  }
  loop_->PostAndWait([this] { Shut(); });
  if (owns_loop_) loop_->Stop();
}

void ClientCore::Shut() {
  const Status reason(Code::kCancelled, "the channel to " + address_ + " was closed");
  shut_ = true;
  loop_->Disarm(&connect_timer_);
  loop_->Disarm(&backoff_timer_);
  if (const auto active = std::exchange(active_, nullptr)) active->Shut(reason);
  for (const auto& connection : std::exchange(draining_, {})) connection->Shut(reason);
  for (const auto& call : std::exchange(waiting_, {})) call->Finish(reason);
  for (const auto& call : std::exchange(later_, {})) call->Finish(reason);
}

void ClientCore::StartCall(const std::shared_ptr<CallState>& call) {
  if (call->finished()) return;
  if (shut_) return call->Finish({Code::kCancelled, "the channel to " + address_ + " is closed"});
  const Status sendable = CheckMetadata(call->metadata());
  if (!sendable.ok()) return call->Finish(sendable);
  call->ArmDeadline(loop_.get());
  switch (phase_) {
    case Phase::kReady: Carry(call); return;
    case Phase::kBackoff:
      if (fail_fast_ && !call->wait_for_ready()) return call->Finish(last_error_);
      Wait(call);
      return;
    case Phase::kIdle:
      Wait(call);
      if (!waiting_.empty()) Connect();
      return;
    case Phase::kResolving:
    case Phase::kConnecting: Wait(call); return;
  }
}

void ClientCore::Wait(const std::shared_ptr<CallState>& call) {
  if (waiting_.size() < kMaxWaiting) {
    waiting_.push_back(call);
    return;
  }
  call->Finish({Code::kResourceExhausted, std::to_string(kMaxWaiting) + " calls wait for a connection to " + address_});
}

void ClientCore::Carry(const std::shared_ptr<CallState>& call) {
  Status started = active_->Start(call);
  if (started.ok()) return;
  if (!active_->used()) return call->Finish(std::move(started));
  // Its stream numbers are used up: a fresh connection has them all.
  draining_.push_back(active_);
  std::exchange(active_, nullptr)->Retire();
  phase_ = Phase::kIdle;
  Wait(call);
  Connect();
}

void ClientCore::AbortCall(const std::shared_ptr<CallState>& call, Status status) {
  if (call->finished()) return;
  if (call->connection() != nullptr) return call->connection()->Abort(call, std::move(status));
  waiting_.erase(std::remove(waiting_.begin(), waiting_.end(), call), waiting_.end());
  later_.erase(call);
  if (status.code() == Code::kDeadlineExceeded && !last_error_.ok()) {
    status = Status(status.code(), status.message() + "; no connection: " + last_error_.message());
  }
  call->Finish(std::move(status));
}

void ClientCore::Connect() {
  const auto now = std::chrono::steady_clock::now();
  if (attempted_ && attempt_started_ + options_.min_backoff > now) {
    // The last connection came and went: a server that does that must not make us spin.
    phase_ = Phase::kBackoff;
    fail_fast_ = false;
    loop_->Arm(&backoff_timer_, attempt_started_ + options_.min_backoff);
    return;
  }
  attempted_ = true;
  attempt_started_ = now;
  ++attempt_;
  phase_ = Phase::kResolving;
  loop_->Arm(&connect_timer_, now + options_.connect_timeout);
  Result<std::vector<SocketAddress>> numeric = ResolveHost(target_, true);
  if (numeric.ok()) return OnResolved(attempt_, numeric);
  ResolveName(target_);
}

// The resolver blocks and cannot be interrupted, so it gets a thread that outlives the channel if it must: it holds
// nothing but the question, and its answer is dropped when the channel is gone.
void ClientCore::ResolveName(const HostPort& target) {
  try {
    std::thread([target, attempt = attempt_, weak = weak_from_this()] {
      auto addresses = std::make_shared<Result<std::vector<SocketAddress>>>(ResolveHost(target, false));
      if (const auto self = weak.lock()) {
        self->Post([self, attempt, addresses] { self->OnResolved(attempt, *addresses); });
      }
    }).detach();
  } catch (const std::system_error& error) {
    AttemptFailed({Code::kResourceExhausted, std::string("no thread to resolve the name: ") + error.what()});
  }
}

void ClientCore::OnResolved(std::uint64_t attempt, const Result<std::vector<SocketAddress>>& addresses) {
  if (shut_ || attempt != attempt_ || phase_ != Phase::kResolving) return;
  if (!addresses.ok()) return AttemptFailed(addresses.status());
  addresses_ = addresses.value();
  next_address_ = 0;
  phase_ = Phase::kConnecting;
  TryNextAddress({Code::kUnavailable, "the name '" + target_.host + "' has no address"});
}

void ClientCore::TryNextAddress(const Status& last_error) {
  Status error = last_error;
  while (next_address_ < addresses_.size()) {
    error = OpenConnection(addresses_[next_address_++]);
    if (!error.ok()) continue;
    loop_->Arm(&connect_timer_, std::chrono::steady_clock::now() + options_.connect_timeout);
    return;
  }
  AttemptFailed(error);
}

Status ClientCore::OpenConnection(const SocketAddress& address) {
  std::shared_ptr<TlsContext> tls;
  if (options_.tls) {
    Result<std::shared_ptr<TlsContext>> loaded = TlsContext::Client(*options_.tls);
    if (!loaded.ok()) return loaded.status();
    tls = std::move(loaded).value();
  }
  Result<int> fd = BeginConnect(address);
  if (!fd.ok()) return fd.status();
  active_ = std::make_shared<ClientConnection>(
      loop_, Transport::Connecting(fd.value(), std::move(tls), options_.server_name),
      ClientConnection::Settings{address_, options_.keepalive_interval, options_.keepalive_timeout}, this);
  Status opened = active_->Open();
  if (!opened.ok()) active_.reset();
  return opened;
}

void ClientCore::OnConnectTimeout() {
  const Status reason(Code::kUnavailable,
                      "no HTTP/2 settings within " + std::to_string(options_.connect_timeout.count()) + " ms");
  if (phase_ == Phase::kResolving) return AttemptFailed({Code::kUnavailable, "the name was not resolved in time"});
  if (phase_ != Phase::kConnecting) return;
  if (const auto active = std::exchange(active_, nullptr)) active->Shut(reason);
  TryNextAddress(reason);
}

std::chrono::milliseconds ClientCore::NextBackoff() {
  const auto most = static_cast<double>(options_.max_backoff.count());
  const double plain = static_cast<double>(options_.min_backoff.count()) * std::pow(kBackoffGrowth, failures_ - 1);
  std::uniform_real_distribution<double> jitter(1 - kJitter, 1 + kJitter);
  return std::chrono::milliseconds(static_cast<std::int64_t>(std::min(plain, most) * jitter(random_)));
}

void ClientCore::AttemptFailed(const Status& reason) {
  last_error_ = NotProcessed("cannot connect to " + address_ + ": " + reason.message());
  failures_ = std::min(failures_ + 1, 100);
  phase_ = Phase::kBackoff;
  fail_fast_ = true;
  loop_->Disarm(&connect_timer_);
  loop_->Arm(&backoff_timer_, std::chrono::steady_clock::now() + NextBackoff());
  const auto patient =
      std::stable_partition(waiting_.begin(), waiting_.end(), [](const auto& call) { return call->wait_for_ready(); });
  const std::vector<std::shared_ptr<CallState>> failed(patient, waiting_.end());
  waiting_.erase(patient, waiting_.end());
  for (const auto& call : failed) call->Finish(last_error_);
}

void ClientCore::OnBackoffOver() {
  phase_ = Phase::kIdle;
  if (!waiting_.empty()) Connect();
}

void ClientCore::OnConnectionReady(ClientConnection* connection) {
  if (connection != active_.get()) return;
  loop_->Disarm(&connect_timer_);
  phase_ = Phase::kReady;
  failures_ = 0;
  last_error_ = Status();
  for (const auto& call : std::exchange(waiting_, {})) StartCall(call);
}

void ClientCore::OnConnectionDraining(ClientConnection* connection, bool too_many_pings) {
  if (too_many_pings) options_.keepalive_interval *= 2;
  if (connection != active_.get()) return;
  draining_.push_back(std::exchange(active_, nullptr));
  phase_ = Phase::kIdle;
}

void ClientCore::RetryCall(const std::shared_ptr<CallState>& call, std::chrono::milliseconds delay) {
  later_.insert(call);
  call->StartLater(loop_.get(), delay, [this, waiting = call.get()] {
    const auto found = later_.find(waiting->shared_from_this());
    const std::shared_ptr<CallState> due = std::move(later_.extract(found).value());
    StartCall(due);
  });
}

void ClientCore::OnConnectionClosed(ClientConnection* connection, const Status& reason) {
  if (connection != active_.get()) {
    draining_.erase(std::remove_if(draining_.begin(), draining_.end(),
                                   [connection](const auto& held) { return held.get() == connection; }),
                    draining_.end());
    return;
  }
  active_.reset();  // lives on until its own stack is left: it keeps itself alive
  if (phase_ == Phase::kConnecting) return TryNextAddress(reason);
  phase_ = Phase::kIdle;
}

}  // namespace mesh::rpc
