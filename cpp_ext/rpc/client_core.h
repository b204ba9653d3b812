// The inside of a Channel: it connects when calls come, keeps them while it does, and starts anew when a connection is
// lost. Everything below RunForCall belongs to the channel's own loop.
//
//   idle ──call──▶ resolving ──▶ connecting ──▶ ready ──lost, GOAWAY──▶ idle (the next attempt no sooner than
//   min_backoff
//                      └────failed────┴──▶ backoff ──time is up──▶ idle, or resolving when calls wait    after the
//                      last)
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <unordered_set>
#include <vector>

#include "rpc/client.h"
#include "rpc/client_address.h"
#include "rpc/client_call.h"
#include "rpc/client_connection.h"
#include "rpc/event_loop.h"

namespace mesh::rpc {

class ClientCore final : public CallHost, public ConnectionOwner, public std::enable_shared_from_this<ClientCore> {
 public:
  ClientCore(std::string address, ChannelOptions options);
  // Joins `loop`, or starts one of its own where that is null. A failure becomes the status of all calls.
  void Init(std::shared_ptr<EventLoop> loop);
  // From any thread; ends the call at once when the channel is closed or has no loop.
  void Submit(const std::shared_ptr<CallState>& call);
  void RunForCall(std::function<void()> work) override;
  void Close();
  [[nodiscard]] bool OnOwnThread() const { return loop_ != nullptr && loop_->InLoop(); }
  [[nodiscard]] std::size_t max_message_bytes() const { return options_.max_message_bytes; }

  // ---- on the loop
  void AbortCall(const std::shared_ptr<CallState>& call, Status status) override;
  void OnConnectionReady(ClientConnection* connection) override;
  void OnConnectionDraining(ClientConnection* connection, bool too_many_pings) override;
  void RetryCall(const std::shared_ptr<CallState>& call, std::chrono::milliseconds delay) override;
  void OnConnectionClosed(ClientConnection* connection, const Status& reason) override;

 private:
  enum class Phase : std::uint8_t { kIdle, kResolving, kConnecting, kReady, kBackoff };

  bool Post(std::function<void()> work);
  void StartCall(const std::shared_ptr<CallState>& call);
  void Carry(const std::shared_ptr<CallState>& call);
  void Wait(const std::shared_ptr<CallState>& call);
  void Connect();
  void ResolveName(const HostPort& target);
  void OnResolved(std::uint64_t attempt, const Result<std::vector<SocketAddress>>& addresses);
  void TryNextAddress(const Status& last_error);
  Status OpenConnection(const SocketAddress& address);
  void AttemptFailed(const Status& reason);
  void OnConnectTimeout();
  void OnBackoffOver();
  void Shut();
  [[nodiscard]] std::chrono::milliseconds NextBackoff();

  const std::string address_;
  ChannelOptions options_;
  HostPort target_;
  Status init_error_;  // written by Init only
  std::shared_ptr<EventLoop> loop_;
  bool owns_loop_ = false;  // written by Init only

  std::mutex mutex_;
  bool closed_ = false;  // guarded by mutex_; after it nothing is posted

  Phase phase_ = Phase::kIdle;
  bool shut_ = false;
  std::shared_ptr<ClientConnection> active_;
  std::vector<std::shared_ptr<ClientConnection>> draining_;
  std::deque<std::shared_ptr<CallState>> waiting_;        // for a connection
  std::unordered_set<std::shared_ptr<CallState>> later_;  // for the time of their next try
  std::uint64_t attempt_ = 0;
  std::vector<SocketAddress> addresses_;
  std::size_t next_address_ = 0;
  std::chrono::steady_clock::time_point attempt_started_;
  bool attempted_ = false;
  int failures_ = 0;
  bool fail_fast_ = false;  // in backoff: the last attempt failed, so calls need not wait
  Status last_error_;
  Timer connect_timer_;
  Timer backoff_timer_;
  std::minstd_rand random_;
};

}  // namespace mesh::rpc
