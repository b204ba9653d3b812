// One client's connection: a socket, an nghttp2 session, and the calls on it. Lives on one loop and is touched by no
// other thread.
//
//   kHandshake --TLS done--> kOpen --GOAWAY sent, no calls left--> kLingering --EOF or 1 s--> kClosed
//   any --error, timeout, lost--> kClosed
// Where HTTP/1 is served too, kGreeting comes before kOpen: the first bytes decide, and another object goes on.
#pragma once

#include <nghttp2/nghttp2.h>

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "rpc/event_loop.h"
#include "rpc/output_queue.h"
#include "rpc/server_call.h"
#include "rpc/server_context.h"
#include "rpc/token_bucket.h"
#include "rpc/transport.h"

namespace mesh::rpc {

class Connection final : public ServedConnection {
 public:
  Connection(ServerLoop* owner, int fd);
  ~Connection() override;

  void Start() override;
  void OnReady(std::uint32_t events) override;

  // Says GOAWAY in two steps, so that requests on their way are not lost, and closes when the last call ended.
  void BeginDrain() override;
  // Ends all calls with UNAVAILABLE and closes.
  void Abort() override;
  // Whether Drain has to wait for it.
  [[nodiscard]] bool busy() const override {
    return state_ == State::kHandshake || state_ == State::kGreeting || state_ == State::kOpen;
  }

  // What calls need.
  [[nodiscard]] ServerLoop& owner() const { return *owner_; }
  [[nodiscard]] nghttp2_session* session() const { return session_; }
  [[nodiscard]] OutputQueue& output() { return output_; }
  [[nodiscard]] const std::shared_ptr<const std::string>& peer() const { return peer_; }
  // Something was submitted: write at the end of this iteration.
  void MarkDirty();
  void AddUnsent(std::size_t bytes) { unsent_ += bytes; }
  void SubtractUnsent(std::size_t bytes) { unsent_ -= bytes; }
  // More bytes wait for this client than it may let pile up.
  [[nodiscard]] bool clogged() const;
  // Runs the call's handler when the connection is not clogged any more.
  void Hold(const std::shared_ptr<CallImpl>& call) { held_.push_back(call); }
  void Unhold(const CallImpl* call);
  void AllSent(const std::shared_ptr<CallImpl>& call) { all_sent_.push_back(call); }

 private:
  enum class State { kHandshake, kGreeting, kOpen, kLingering, kClosed };
  class FlushTask : public LoopTask {
   public:
    explicit FlushTask(Connection* connection) : connection_(connection) {}
    void RunInLoop() override { connection_->Flush(); }

   private:
    Connection* const connection_;
  };
  friend struct SessionCallbacks;

  // What is gathered before one write; the rest stays where it is until the socket has taken this.
  static constexpr std::size_t kFillBytes = 512UL * 1024;

  // server_connection.cc
  void ContinueHandshake();
  void Open();
  bool OpenSession();
  void ReadGreeting();
  void HandOver();
  void ReadInput();
  bool Receive(const char* data, std::size_t size);
  void Flush();
  bool Fill();
  void RunAllSent();
  void RunHeldCalls();
  void GrantConnectionWindow();
  void CountUnsent();
  void AfterFlush(bool blocked);
  void UpdateInterest(bool blocked);
  void Linger();
  void EndCalls();
  void Close(const char* why);

  // server_session.cc: what nghttp2 reports
  int OnBeginFrame(const nghttp2_frame_hd& header);
  int OnBeginHeaders(std::int32_t stream_id);
  int OnHeader(CallImpl* call, bool request, std::string_view name, std::string_view value);
  int OnFrame(const nghttp2_frame& frame);
  int OnControlFrame(const nghttp2_frame& frame);
  int OnFrameSent(const nghttp2_frame& frame);
  int OnData(CallImpl* call, std::int32_t stream_id, std::string_view bytes);
  int OnSendData(CallImpl* call, std::string_view frame_header, std::size_t length);
  int OnStreamClose(CallImpl* call);
  int OnInvalidFrame(const nghttp2_frame& frame, int error);
  void CalmDown(const char* why);
  void Unlink(CallImpl* call);

  // server_watchdog.cc: time
  void Watch();
  void OnWatchdog();
  void EndIdleMessages();
  [[nodiscard]] bool Stalled();
  void Fail(const char* why);
  void FinishDrain();

  ServerLoop* const owner_;
  EventLoop& loop_;
  const ServerOptions& options_;
  std::unique_ptr<Transport> transport_;
  const std::shared_ptr<const std::string> peer_;
  nghttp2_session* session_ = nullptr;
  State state_ = State::kHandshake;
  std::string greeting_;  // the first bytes, as long as they could be of either protocol
  OutputQueue output_;
  FlushTask flush_task_{this};
  bool dirty_ = false;
  bool doomed_ = false;  // close after what nghttp2 still wants to say
  std::uint32_t interest_ = 0;

  CallImpl* calls_ = nullptr;
  std::size_t call_count_ = 0;
  std::size_t unsent_ = 0;
  std::size_t counted_unsent_ = 0;  // with output_, as the loop's counter knows it
  std::deque<std::shared_ptr<CallImpl>> held_;
  std::size_t unconsumed_ = 0;  // received bytes for which the client gets no new window while it is clogged
  std::vector<std::shared_ptr<CallImpl>> all_sent_;

  Timer watchdog_;
  EventLoop::TimePoint opened_;
  EventLoop::TimePoint last_frame_;
  EventLoop::TimePoint headers_began_{};  // not zero while a header block is incomplete
  EventLoop::TimePoint ping_sent_{};      // not zero while its answer is awaited
  EventLoop::TimePoint drain_notice_{};   // not zero between the two steps of a drain
  EventLoop::TimePoint linger_until_{};
  EventLoop::TimePoint clogged_since_{};  // not zero when the watchdog saw it clogged
  EventLoop::TimePoint last_moved_{};     // when part of an answer went to the output
  bool settings_received_ = false;
  bool draining_ = false;

  bool sent_since_ping_ = false;
  TokenBucket resets_;
  TokenBucket control_frames_;
  TokenBucket invalid_frames_;
};

}  // namespace mesh::rpc
