#include "rpc/client_call.h"

#include <cstdlib>
#include <utility>

#include "rpc/client_connection.h"
#include "rpc/wire.h"

namespace mesh::rpc {
namespace {

constexpr std::size_t kMaxHeaderBytes = 64UL * 1024;  // of one block
// A server that counts a call until its own threads have let go of it refuses the next one for some milliseconds, more
// when it is busy. The waits between tries double: 0, 1, 2, ... 256 ms, half a second in all.
constexpr int kMaxRetries = 10;
constexpr std::size_t kHeaderOverhead = 32;  // per header, as HTTP/2 counts

std::optional<std::chrono::steady_clock::time_point> DeadlineOf(const CallOptions& options) {
  if (!options.timeout) return std::nullopt;
  return std::chrono::steady_clock::now() + *options.timeout;
}

}  // namespace

Status NotProcessed(const std::string& reason) { return {Code::kUnavailable, reason + ' ' + kNotProcessed}; }

bool WasNotProcessed(const Status& status) {
  const std::string_view mark = kNotProcessed;
  const std::string& text = status.message();
  return status.code() == Code::kUnavailable && text.size() >= mark.size() &&
         text.compare(text.size() - mark.size(), mark.size(), mark) == 0;
}

CallState::CallState(std::shared_ptr<CallHost> host, std::string path, CallOptions options,
                     std::size_t max_message_bytes)
    : host_(std::move(host)),
      path_(std::move(path)),
      options_(std::move(options)),
      deadline_(DeadlineOf(options_)),
      deadline_timer_([this] {
        const std::shared_ptr<CallState> self = shared_from_this();
        host_->AbortCall(self, {Code::kDeadlineExceeded,
                                "no answer within " + std::to_string(options_.timeout->count()) + " ms to " + path_});
      }),
      retry_timer_([this] { std::exchange(start_again_, nullptr)(); }),
      reader_(max_message_bytes) {}

void CallState::SetUnary(Message request, UnaryDone done) {
  unary_ = true;
  unary_done_ = std::move(done);
  request_ = request;
  Queue(std::move(request));
  half_closed_ = true;
}

void CallState::SetStream(StreamCallbacks callbacks) { callbacks_ = std::move(callbacks); }

void CallState::SetOnly(Message request, StreamCallbacks callbacks) {
  callbacks_ = std::move(callbacks);
  Queue(std::move(request));
  half_closed_ = true;
}

void CallState::Queue(Message message) {
  const Status pushed = outgoing_.Push(std::move(message), Encoding::kIdentity);
  unsent_.store(outgoing_.size(), std::memory_order_relaxed);
  if (pushed.ok()) return;
  host_->RunForCall([self = shared_from_this(), pushed] { self->host_->AbortCall(self, pushed); });
}

void CallState::Send(Message message) {
  unsent_.fetch_add(message.size() + kPrefixBytes, std::memory_order_relaxed);
  host_->RunForCall([self = shared_from_this(), message = std::move(message)]() mutable {
    if (self->finished_ || self->half_closed_) return;
    self->Queue(std::move(message));
    if (self->connection_ != nullptr) self->connection_->Resume(*self);
  });
}

void CallState::HalfClose() {
  host_->RunForCall([self = shared_from_this()] {
    if (self->finished_ || self->half_closed_) return;
    self->half_closed_ = true;
    if (self->connection_ != nullptr) self->connection_->Resume(*self);
  });
}

void CallState::Cancel() {
  host_->RunForCall([self = shared_from_this()] {
    self->host_->AbortCall(self, {Code::kCancelled, "the caller cancelled " + self->path_});
  });
}

void CallState::PauseReading(bool paused) {
  host_->RunForCall([self = shared_from_this(), paused] {
    self->reading_paused_ = paused;
    if (!paused && !self->finished_ && self->connection_ != nullptr) self->connection_->Grant(self.get(), 0);
  });
}

std::size_t CallState::TakeGrant(std::size_t received) {
  withheld_ += received;
  return reading_paused_ ? 0 : std::exchange(withheld_, 0);
}

void CallState::ArmDeadline(EventLoop* loop) {
  if (!deadline_) return;
  loop_ = loop;
  loop->Arm(&deadline_timer_, *deadline_);
}

void CallState::MoveOut(OutputQueue* out, std::size_t bytes) {
  outgoing_.MoveTo(out, bytes);
  unsent_.store(outgoing_.size(), std::memory_order_relaxed);
  if (!outgoing_.empty() || !callbacks_.on_sent) return;
  host_->RunForCall([self = shared_from_this()] {  // not in the middle of the connection's writing
    if (self->outgoing_.empty() && self->callbacks_.on_sent) self->callbacks_.on_sent();
  });
}

void CallState::BeginHeaders() {
  header_bytes_ = 0;
  received_.clear();
}

Status CallState::AddHeader(std::string_view name, std::string_view value) {
  header_bytes_ += name.size() + value.size() + kHeaderOverhead;
  if (header_bytes_ > kMaxHeaderBytes) {
    return {Code::kResourceExhausted,
            "the server's headers are larger than the limit of " + std::to_string(kMaxHeaderBytes) + " bytes"};
  }
  if (name == ":status") {
    http_status_ = value;
  } else if (name == "content-type") {
    content_type_ = value;
  } else if (name == "grpc-encoding") {
    encoding_ = value;
  } else if (name == "grpc-status") {
    grpc_status_ = value;
    answered_.store(true, std::memory_order_relaxed);
  } else if (name == "grpc-message") {
    grpc_message_ = value;
  } else if (!IsReservedHeader(name) && !AppendReceived(name, value, &received_)) {
    return {Code::kInternal, "the server sent metadata '" + std::string(name) + "' that is not base64"};
  }
  return {};
}

Status CallState::EndHeaders() {
  if (head_seen_) return {};                                            // trailers; the end of the stream reads them
  if (!http_status_.empty() && http_status_.front() == '1') return {};  // informational: the real ones follow
  head_seen_ = true;
  return ReadResponseHead();
}

Status CallState::ReadResponseHead() {
  if (grpc_status_) return {};  // the answer is its trailers
  if (http_status_ != "200") {
    const int http = http_status_.size() == 3 ? std::atoi(http_status_.c_str()) : 0;
    return {CodeFromHttpStatus(http), "the server answered with HTTP status " + http_status_};
  }
  if (content_type_.compare(0, 16, "application/grpc") != 0) {
    return {Code::kUnknown, "the server answered with content-type '" + content_type_.substr(0, 100) +
                                "' instead of application/grpc: it is no gRPC server, or something stands in front"};
  }
  const std::optional<Encoding> encoding = ParseEncoding(encoding_);
  if (!encoding) {
    return {Code::kInternal, "the server compresses with '" + encoding_.substr(0, 32) + "', which was not offered"};
  }
  reader_.set_encoding(*encoding);
  return {};
}

Status CallState::AddData(std::string_view bytes) {
  if (!head_seen_) return {Code::kInternal, "the server sent a message before its headers"};
  while (!bytes.empty() && !finished_) {
    Result<std::size_t> taken = reader_.Consume(bytes);
    if (!taken.ok()) return taken.status();
    bytes.remove_prefix(taken.value());
    if (!reader_.ready()) continue;
    Result<Slice> message = reader_.Take();
    if (!message.ok()) return message.status();
    Status delivered = Deliver(std::move(message).value());
    if (!delivered.ok()) return delivered;
  }
  return {};
}

Status CallState::Deliver(Slice message) {
  ++messages_;
  if (!unary_) {
    if (callbacks_.on_message) callbacks_.on_message(std::move(message));
    return {};
  }
  if (messages_ > 1) return {Code::kInternal, "the server sent more than one message as the answer to " + path_};
  response_ = std::move(message);
  return {};
}

Status CallState::MissingStatus() const {
  if (!head_seen_) return {Code::kUnavailable, "the server ended the call without an answer"};
  return {Code::kInternal, "the server ended the call without a grpc-status"};
}

Status CallState::Outcome(std::uint32_t http2_error) const {
  // RST_STREAM(NO_ERROR) after complete trailers is how a server says that it needs no more of the request.
  if (grpc_status_ && (http2_error == NGHTTP2_NO_ERROR || http2_error == NGHTTP2_CANCEL)) {
    Status status = StatusFromTrailers(*grpc_status_, grpc_message_);
    if (!status.ok()) return status;
    if (reader_.mid_message()) return reader_.Truncated();
    if (unary_ && messages_ == 0) return {Code::kInternal, "the server ended " + path_ + " with OK and no message"};
    return status;
  }
  if (http2_error == NGHTTP2_REFUSED_STREAM) return NotProcessed("the server refused the call");
  if (http2_error == NGHTTP2_NO_ERROR) return reader_.mid_message() ? reader_.Truncated() : MissingStatus();
  return {CodeFromHttp2Error(http2_error),
          "the call's stream was reset with " + std::string(nghttp2_http2_strerror(http2_error))};
}

std::optional<std::chrono::milliseconds> CallState::PrepareRetry() {
  if (finished_ || !unary_ || head_seen_ || retries_ >= kMaxRetries) return std::nullopt;
  connection_ = nullptr;
  withheld_ = 0;
  outgoing_.Clear();
  Queue(request_);
  return std::chrono::milliseconds((1 << retries_++) / 2);
}

void CallState::StartLater(EventLoop* loop, std::chrono::milliseconds delay, std::function<void()> start) {
  loop_ = loop;
  start_again_ = std::move(start);
  loop->Arm(&retry_timer_, std::chrono::steady_clock::now() + delay);
}

void CallState::Finish(Status status) {
  if (finished_) return;
  finished_ = true;
  connection_ = nullptr;
  if (loop_ != nullptr) {
    loop_->Disarm(&deadline_timer_);
    loop_->Disarm(&retry_timer_);
  }
  start_again_ = nullptr;
  outgoing_.Clear();
  request_ = Message();
  unsent_.store(0, std::memory_order_relaxed);
  // Moved out, so that what the callbacks hold is released with the call even if the user keeps the ClientCall.
  const UnaryDone unary_done = std::exchange(unary_done_, nullptr);
  const StreamCallbacks callbacks = std::exchange(callbacks_, {});
  if (unary_ && unary_done) {
    unary_done(status, status.ok() ? std::exchange(response_, Slice()) : Slice());
  } else if (callbacks.on_done) {
    callbacks.on_done(std::move(status), std::exchange(received_, {}));
  }
}

}  // namespace mesh::rpc
