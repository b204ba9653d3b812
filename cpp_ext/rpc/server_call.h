// One RPC on the server's side: the ServerCall that handlers see, and its half that lives on the connection's loop.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "rpc/event_loop.h"
#include "rpc/framing.h"
#include "rpc/request_headers.h"
#include "rpc/server_context.h"

namespace mesh::rpc {

class Connection;

class CallImpl final : public ServerCall,
                       public LoopTask,
                       public InflateWork,
                       public std::enable_shared_from_this<CallImpl> {
 public:
  CallImpl(Connection* connection, std::int32_t stream_id);

  // ServerCall: from any thread.
  [[nodiscard]] std::string_view path() const override { return headers_.path(); }
  [[nodiscard]] const Metadata& metadata() const override { return headers_.metadata(); }
  [[nodiscard]] std::string_view peer() const override { return *peer_; }
  [[nodiscard]] std::optional<std::chrono::steady_clock::time_point> deadline() const override { return deadline_; }
  [[nodiscard]] bool done() const override { return done_.load(std::memory_order_acquire); }
  void OnCancel(std::function<void()> callback) override;
  void OnMessage(std::function<void(std::optional<Slice>)> callback) override;
  void PauseMessages(bool paused) override;
  void Send(Message message) override;
  [[nodiscard]] std::size_t unsent_bytes() const override { return unsent_.load(std::memory_order_relaxed); }
  void OnSent(std::function<void()> callback) override;
  using ServerCall::Finish;
  void Finish(Status status, Metadata trailers) override;

  // LoopTask: what other threads asked for.
  void RunInLoop() override;
  void Discard() override;
  // InflateWork.
  void InflateInTurn() override;

  // All that follows: on the loop.
  void AddHeader(std::string_view name, std::string_view value);
  [[nodiscard]] std::size_t header_bytes() const { return headers_.bytes(); }
  void HeadersComplete(bool end_stream);
  void DataReceived(std::string_view bytes);
  void RequestEnded();
  // The stream is gone, and the client sees nothing more of the call.
  void StreamClosed();
  // The server itself ends the call (deadline, stop, bad input): the client is told, the handler's OnCancel called.
  void Abort(const Status& status, std::string_view http_status = "200");
  // Calls the handler of a unary call that waited for room.
  void RunHeld();

  // nghttp2 asks for up to `length` bytes of the answer.
  ssize_t ReadData(std::size_t length, std::uint32_t* flags);
  // Moves `length` bytes of the answer to the connection's queue.
  void MoveData(std::size_t length);
  void RunOnSent();

  [[nodiscard]] std::int32_t stream_id() const { return stream_id_; }
  [[nodiscard]] bool end_received() const { return end_received_; }
  [[nodiscard]] bool answered() const { return finishing_; }
  // The client is to send, and nothing on our side keeps it from doing so.
  [[nodiscard]] bool receiving() const {
    return !end_received_ && !finishing_ && method_ != nullptr &&
           (method_->unary || (inbox_.empty() && reader_.mid_message()));
  }
  [[nodiscard]] EventLoop::TimePoint last_progress() const { return last_progress_; }
  [[nodiscard]] EventLoop::TimePoint started() const { return started_; }

  // Links of the connection's list of open calls.
  std::shared_ptr<CallImpl> self;
  CallImpl* previous = nullptr;
  CallImpl* next = nullptr;

 private:
  struct Outbox {
    std::vector<Message> messages;
    std::optional<Status> finish;
    Metadata trailers;
  };
  // Messages that wait to be decompressed, and those behind them.
  struct Inflow {
    struct Arrived {
      Slice bytes;
      bool packed;
    };
    std::deque<Arrived> waiting;
    std::unique_ptr<Decompression> running;
  };

  bool StartMethod();
  void ArmDeadline();
  template <typename Handler>
  void Invoke(Handler&& handler);
  void InvokeUnary();
  void MessageReceived(Slice message);
  void AllReceived();
  void DeliverMessages();
  [[nodiscard]] bool Backlogged() const;
  void GrantWindow(std::size_t bytes);
  void GrantWithheld();
  void Schedule(std::unique_lock<std::mutex>* lock);
  void Pump();
  void SetTrailers(Metadata trailers);
  void DropAnswerOfFailure();
  void ResumeData();
  void Submit(std::string_view http_status);
  void SubmitTrailers();
  [[nodiscard]] Encoding AnswerEncoding() const;

  // server_inflate.cc
  // Takes a message that is packed, or behind one that is.
  void Enqueue(Slice bytes, bool packed);
  void Inflate();
  bool InflateNext();
  bool InflateLater();
  [[nodiscard]] static std::size_t Weight(const Slice& message);
  // Counts what waits against the budget. False when there is no room: the call is aborted.
  bool CountWaiting();
  // Frees what the handler will not see any more.
  void DropWaiting();

  // Marks the call as ended and hands over what must be called or freed outside of the lock.
  bool MarkEnded(std::function<void()>* on_cancel);

  // Fixed before any handler runs.
  Connection* connection_;  // loop only; null after the stream closed
  const std::shared_ptr<EventLoop> loop_;
  const std::shared_ptr<const std::string> peer_;
  const std::int32_t stream_id_;
  RequestHeaders headers_;
  std::optional<std::chrono::steady_clock::time_point> deadline_;

  // Loop only.
  const Method* method_ = nullptr;
  MessageReader reader_;
  std::deque<Slice> inbox_;
  std::unique_ptr<Inflow> inflow_;  // not null while something waits to be decompressed
  std::size_t waiting_bytes_ = 0;   // weight of the messages in inbox_ and inflow_
  std::size_t counted_bytes_ = 0;   // as much of it as the budget knows
  std::size_t unconsumed_ = 0;      // received bytes for which no window was granted, as their messages wait
  bool held_ = false;               // by the connection
  bool inflating_ = false;
  bool waits_for_turn_ = false;
  std::size_t window_ = 0;
  bool unary_ready_ = false;
  bool end_received_ = false;
  bool end_delivered_ = false;
  bool delivering_ = false;
  bool messages_paused_ = false;
  OutgoingMessages outgoing_;
  Encoding answer_encoding_ = Encoding::kIdentity;
  bool submitted_ = false;
  bool deferred_ = false;
  bool finishing_ = false;
  Status final_status_;
  Metadata final_trailers_;
  Timer deadline_timer_;
  EventLoop::TimePoint started_;
  EventLoop::TimePoint last_progress_;

  std::atomic<bool> done_{false};
  std::atomic<std::size_t> unsent_{0};
  std::mutex mutex_;  // guards what follows
  Outbox outbox_;
  bool finished_ = false;  // the handler called Finish
  bool scheduled_ = false;
  std::shared_ptr<CallImpl> scheduled_self_;
  std::function<void()> on_cancel_;
  std::function<void(std::optional<Slice>)> on_message_;
  std::function<void()> on_sent_;
};

}  // namespace mesh::rpc
