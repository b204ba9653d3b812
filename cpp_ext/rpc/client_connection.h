// One HTTP/2 connection of a client, from the TCP connect to its end. Belongs to the channel's loop.
//
//   connecting ──handshake, server's SETTINGS──▶ ready ──GOAWAY──▶ draining ──last call ended──▶ closed
//        └───────────────────────── any failure ────────┴──────────────┴──────────────────────────▲
#pragma once

#include <nghttp2/nghttp2.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>

#include "rpc/client.h"
#include "rpc/client_call.h"
#include "rpc/event_loop.h"
#include "rpc/output_queue.h"
#include "rpc/transport.h"

namespace mesh::rpc {

// Who opened a connection. Told on the loop, never from within the connection's constructor.
class ConnectionOwner {
 public:
  virtual ~ConnectionOwner() = default;
  virtual void OnConnectionReady(ClientConnection* connection) = 0;
  // The server takes no more calls here; `too_many_pings` when our keepalive annoyed it.
  virtual void OnConnectionDraining(ClientConnection* connection, bool too_many_pings) = 0;
  // The call was not processed and starts anew after `delay`, on another connection perhaps.
  virtual void RetryCall(const std::shared_ptr<CallState>& call, std::chrono::milliseconds delay) = 0;
  // Last call from this connection; its calls have ended. The owner drops it.
  virtual void OnConnectionClosed(ClientConnection* connection, const Status& reason) = 0;
};

class ClientConnection final : public IoHandler,
                               public LoopTask,
                               public std::enable_shared_from_this<ClientConnection> {
 public:
  enum class State : std::uint8_t { kConnecting, kReady, kDraining, kClosed };

  struct Settings {
    std::string authority;
    std::chrono::milliseconds keepalive_interval{10000};
    std::chrono::milliseconds keepalive_timeout{5000};
  };

  ClientConnection(std::shared_ptr<EventLoop> loop, std::unique_ptr<Transport> transport, Settings settings,
                   ConnectionOwner* owner);
  ~ClientConnection() override;
  ClientConnection(const ClientConnection&) = delete;
  ClientConnection& operator=(const ClientConnection&) = delete;

  // Begins the handshake. An error means that nothing was begun and OnConnectionClosed is not called.
  Status Open();
  [[nodiscard]] State state() const { return state_; }
  [[nodiscard]] bool accepts_calls() const { return state_ == State::kReady; }

  // Sends the request's headers. Takes the call only when it returns OK; a failure is UNAVAILABLE, not processed.
  Status Start(const std::shared_ptr<CallState>& call);
  // True once it has carried a call.
  [[nodiscard]] bool used() const { return used_; }
  // Takes no more calls, and closes when the last one has ended.
  void Retire();
  // The call has more to send, or half-closed.
  void Resume(const CallState& call);
  // The call has taken `received` more bytes: the server may send as many again, unless the call is paused.
  void Grant(CallState* call, std::size_t received);
  // Resets the call's stream and finishes the call with `status`.
  void Abort(const std::shared_ptr<CallState>& call, Status status);
  // Ends everything at once: calls end with `reason`, the owner is not told.
  void Shut(const Status& reason);

  // IoHandler, LoopTask
  void OnReady(std::uint32_t events) override;
  void RunInLoop() override;

 private:
  friend struct ClientCallbacks;
  struct SessionDeleter {
    void operator()(nghttp2_session* session) const { nghttp2_session_del(session); }
  };

  void ContinueHandshake();
  Status StartSession();
  void ReadAvailable();
  void ScheduleFlush();
  void Flush();
  // False: no more can be written now, or the connection is lost.
  bool WriteQueue();
  void Watch(std::uint32_t events);
  void Lose(const Status& reason);
  void EndCalls(const Status& reason);
  void NoteAlive();
  void OnKeepaliveTimer();
  void ArmKeepalive();

  // What the server sent (client_session.cc).
  void OnFrame(const nghttp2_frame& frame);
  void OnGoAway(const nghttp2_goaway& frame);
  void OnHeadersDone(const nghttp2_frame& frame);
  void OnData(std::int32_t stream, std::string_view bytes);
  void OnStreamClosed(std::int32_t stream, std::uint32_t http2_error);
  std::shared_ptr<CallState> Find(std::int32_t stream) const;
  void CloseIfDrained();
  void EndCall(const std::shared_ptr<CallState>& call, Status status);

  const std::shared_ptr<EventLoop> loop_;
  const Settings settings_;
  ConnectionOwner* owner_;  // null after the end
  std::unique_ptr<Transport> transport_;
  std::unique_ptr<nghttp2_session, SessionDeleter> session_;
  State state_ = State::kConnecting;
  bool handshaken_ = false;
  bool used_ = false;
  bool flush_scheduled_ = false;
  std::uint32_t watched_ = 0;
  OutputQueue output_;
  std::unordered_map<std::int32_t, std::shared_ptr<CallState>> calls_;
  Timer keepalive_timer_;
  bool ping_unanswered_ = false;
  std::chrono::steady_clock::time_point last_received_;
};

// The nghttp2 callbacks that lead to the methods above, and its options; shared by all sessions, never freed.
nghttp2_session_callbacks* ClientSessionCallbacks();
nghttp2_option* ClientSessionOptions();

}  // namespace mesh::rpc
