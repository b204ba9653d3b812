// One call of a client: what it sends, what it has received of the answer, and how it ends. All of it belongs to the
// channel's loop, except the methods of ClientCall.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "rpc/client.h"
#include "rpc/event_loop.h"
#include "rpc/framing.h"

namespace mesh::rpc {

class ClientConnection;
class CallState;

// Where a call sends the work that its user's threads ask for.
class CallHost {
 public:
  virtual ~CallHost() = default;
  // Runs `work` on the loop; drops it when the channel is closed, which has ended the call anyway.
  virtual void RunForCall(std::function<void()> work) = 0;
  // On the loop: takes the call from wherever it waits or runs and finishes it.
  virtual void AbortCall(const std::shared_ptr<CallState>& call, Status status) = 0;
};

class CallState final : public ClientCall, public std::enable_shared_from_this<CallState> {
 public:
  using UnaryDone = std::function<void(Status, Slice)>;

  CallState(std::shared_ptr<CallHost> host, std::string path, CallOptions options, std::size_t max_message_bytes);

  // One of the three, before the call starts.
  void SetUnary(Message request, UnaryDone done);
  void SetStream(StreamCallbacks callbacks);
  // A stream that sends this and nothing more.
  void SetOnly(Message request, StreamCallbacks callbacks);

  // ClientCall
  void Send(Message message) override;
  void HalfClose() override;
  void Cancel() override;
  [[nodiscard]] std::size_t unsent_bytes() const override { return unsent_.load(std::memory_order_relaxed); }
  void PauseReading(bool paused) override;
  [[nodiscard]] bool answered() const override { return answered_.load(std::memory_order_relaxed); }

  // ---- the rest: on the loop
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] const Metadata& metadata() const { return options_.metadata; }
  [[nodiscard]] bool wait_for_ready() const { return options_.wait_for_ready; }
  [[nodiscard]] std::optional<std::chrono::steady_clock::time_point> deadline() const { return deadline_; }
  [[nodiscard]] bool finished() const { return finished_; }
  // Ends the call with DEADLINE_EXCEEDED when its time is used up.
  void ArmDeadline(EventLoop* loop);

  // The connection and stream that carry the call; none while it waits.
  void Attach(ClientConnection* connection, std::int32_t stream) {
    connection_ = connection;
    stream_ = stream;
  }
  [[nodiscard]] ClientConnection* connection() const { return connection_; }
  [[nodiscard]] std::int32_t stream() const { return stream_; }

  // What goes out.
  [[nodiscard]] OutgoingMessages& outgoing() { return outgoing_; }
  [[nodiscard]] bool half_closed() const { return half_closed_; }
  // Received bytes for which the server gets a new window now; those that come while reading is paused wait.
  [[nodiscard]] std::size_t TakeGrant(std::size_t received);
  void MoveOut(OutputQueue* out, std::size_t bytes);

  // What comes in, as the connection reads it. An error ends the call.
  void BeginHeaders();
  Status AddHeader(std::string_view name, std::string_view value);
  Status EndHeaders();
  Status AddData(std::string_view bytes);
  // What the end of the stream means; `http2_error` is 0 for an orderly one.
  [[nodiscard]] Status Outcome(std::uint32_t http2_error) const;
  // Calls the user's callback, once.
  void Finish(Status status);
  // For a call that was not processed: makes it as if it had not been sent, and says how long to wait before it is sent
  // again. None when that cannot be (a stream, whose messages are gone) or has been tried often enough; then it must
  // be finished.
  std::optional<std::chrono::milliseconds> PrepareRetry();
  // Calls `start` after `delay`, unless the call is finished before.
  void StartLater(EventLoop* loop, std::chrono::milliseconds delay, std::function<void()> start);

 private:
  Status ReadResponseHead();
  Status Deliver(Slice message);
  [[nodiscard]] Status MissingStatus() const;
  void Queue(Message message);

  const std::shared_ptr<CallHost> host_;
  const std::string path_;
  const CallOptions options_;
  const std::optional<std::chrono::steady_clock::time_point> deadline_;
  std::atomic<std::size_t> unsent_{0};
  std::atomic<bool> answered_{false};

  bool unary_ = false;
  Message request_;  // of a unary call, kept for a retry
  int retries_ = 0;
  UnaryDone unary_done_;
  StreamCallbacks callbacks_;
  Timer deadline_timer_;
  Timer retry_timer_;
  std::function<void()> start_again_;  // while the retry timer is armed
  EventLoop* loop_ = nullptr;          // of the armed timers
  ClientConnection* connection_ = nullptr;
  std::int32_t stream_ = 0;

  OutgoingMessages outgoing_;
  bool half_closed_ = false;
  bool reading_paused_ = false;
  std::size_t withheld_ = 0;  // received while paused

  MessageReader reader_;
  std::size_t header_bytes_ = 0;  // of the block that is being read
  bool head_seen_ = false;        // the response's headers were complete
  std::string http_status_;
  std::string content_type_;
  std::string encoding_;
  std::optional<std::string> grpc_status_;
  std::string grpc_message_;
  Metadata received_;  // of the block that was read last, at the end the trailers
  std::size_t messages_ = 0;
  Slice response_;  // of a unary call
  bool finished_ = false;
};

// UNAVAILABLE with kNotProcessed at its end.
Status NotProcessed(const std::string& reason);

}  // namespace mesh::rpc
