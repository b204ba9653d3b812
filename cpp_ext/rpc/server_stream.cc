// The half of a call that lives on the loop: from received bytes to the handler, and from its answer to nghttp2.
#include <algorithm>
#include <exception>

#include "rpc/server_call.h"
#include "rpc/server_connection.h"
#include "rpc/wire.h"

namespace mesh::rpc {
namespace {

constexpr std::size_t kLargestWindow = 16UL << 20;
constexpr std::size_t kBacklogShare = 4;
constexpr std::chrono::hours kLongestDeadline{24 * 365};

// One per thread: its memory is reused from call to call.
HeaderList& ScratchHeaders() {
  thread_local HeaderList headers;
  headers.Clear();
  return headers;
}

ssize_t ReadCallData(nghttp2_session* /*session*/, std::int32_t /*stream_id*/, std::uint8_t* /*buffer*/,
                     std::size_t length, std::uint32_t* flags, nghttp2_data_source* source, void* /*user_data*/) {
  return static_cast<CallImpl*>(source->ptr)->ReadData(length, flags);
}

}  // namespace

void CallImpl::AddHeader(std::string_view name, std::string_view value) {
  headers_.Add(name, value, connection_->owner().context().options.max_metadata_bytes);
}

void CallImpl::HeadersComplete(bool end_stream) {
  end_received_ = end_stream;
  std::optional<RequestHeaders::Fault> fault =
      headers_.Check(connection_->owner().context().options.max_metadata_bytes);
  if (fault) {
    Abort(fault->status, fault->http_status);
    return;
  }
  if (!StartMethod()) return;
  if (end_stream && !finishing_) RequestEnded();
}

bool CallImpl::StartMethod() {
  const auto& methods = connection_->owner().context().methods;
  const auto found = methods.find(headers_.path());
  if (found == methods.end()) {
    Abort({Code::kUnimplemented, "the method '" + headers_.path().substr(0, 256) + "' is not known to this server"});
    return false;
  }
  method_ = &found->second;
  reader_.set_encoding(headers_.encoding());
  answer_encoding_ = AnswerEncoding();
  if (headers_.timeout()) {
    ArmDeadline();
    if (finishing_) return false;
  }
  if (method_->stream) Invoke([this] { method_->stream(shared_from_this()); });
  return true;
}

void CallImpl::ArmDeadline() {
  const auto timeout = std::min<std::chrono::nanoseconds>(*headers_.timeout(), kLongestDeadline);
  deadline_ = loop_->now() + timeout;
  if (timeout.count() <= 0) {
    Abort({Code::kDeadlineExceeded, "the deadline of the call had passed when it arrived"});
    return;
  }
  loop_->Arm(&deadline_timer_, *deadline_);
}

Encoding CallImpl::AnswerEncoding() const {
  Encoding wanted = Encoding::kIdentity;
  switch (connection_->owner().context().options.response_compression) {
    case ResponseCompression::kNone: break;
    case ResponseCompression::kGzip: wanted = Encoding::kGzip; break;
    case ResponseCompression::kDeflate: wanted = Encoding::kDeflate; break;
    case ResponseCompression::kLikeRequest: wanted = headers_.encoding(); break;
  }
  const bool accepted = (wanted == Encoding::kGzip && headers_.accepts_gzip()) ||
                        (wanted == Encoding::kDeflate && headers_.accepts_deflate());
  return accepted ? wanted : Encoding::kIdentity;
}

template <typename Handler>
void CallImpl::Invoke(Handler&& handler) {
  try {
    handler();
    return;
  } catch (const std::exception& error) {
    connection_->owner().context().Log("handler threw", headers_.path() + ": " + error.what());
  } catch (...) {
    connection_->owner().context().Log("handler threw", headers_.path() + ": an exception of an unknown type");
  }
  Finish({Code::kInternal, "internal error"}, {});
}

void CallImpl::DataReceived(std::string_view bytes) {
  const std::size_t received = bytes.size();
  last_progress_ = loop_->now();
  while (!bytes.empty() && !finishing_) {
    Result<std::size_t> taken = reader_.Consume(bytes);
    if (!taken.ok()) {
      Abort(taken.status());
      break;
    }
    bytes.remove_prefix(taken.value());
    if (!reader_.ready()) continue;
    const bool packed = reader_.packed();
    if (packed || inflow_ != nullptr) {
      Enqueue(reader_.TakePacked(), packed);
    } else {
      MessageReceived(reader_.TakePacked());
    }
  }
  // What no handler takes at once is counted. A unary message's handler is called when the request ends.
  if (waiting_bytes_ != counted_bytes_ && !finishing_ && (method_->stream || inflow_ != nullptr)) CountWaiting();
  GrantWindow(received);
}

void CallImpl::GrantWindow(std::size_t bytes) {
  if (connection_ == nullptr) return;
  if (!finishing_ && ((method_->stream && !inbox_.empty()) || inflow_ != nullptr)) {
    unconsumed_ += bytes;  // the handler is behind, or we are: the client has to wait
    return;
  }
  nghttp2_session_consume_stream(connection_->session(), stream_id_, bytes);
  // A large message gets a window in which its sender need not wait for us.
  const std::size_t wanted = std::min(reader_.declared(), kLargestWindow);
  if (wanted > std::max(window_, ServerContext::kStreamWindow)) {
    window_ = kLargestWindow;
    nghttp2_session_set_local_window_size(connection_->session(), NGHTTP2_FLAG_NONE, stream_id_,
                                          static_cast<std::int32_t>(kLargestWindow));
  }
}

void CallImpl::MessageReceived(Slice message) {
  if (method_->unary && unary_ready_) {
    Abort(
        {Code::kUnimplemented, "the method '" + headers_.path() + "' takes exactly one message, the client sent more"});
    return;
  }
  unary_ready_ = true;
  waiting_bytes_ += Weight(message);
  inbox_.push_back(std::move(message));
  if (method_->stream) DeliverMessages();
}

void CallImpl::RequestEnded() {
  end_received_ = true;
  if (finishing_) return;
  if (reader_.mid_message()) {
    Abort(reader_.Truncated());
  } else if (inflow_ == nullptr) {
    AllReceived();
  }
}

void CallImpl::AllReceived() {
  if (method_->stream) {
    DeliverMessages();
  } else if (!unary_ready_) {
    Abort(
        {Code::kUnimplemented, "the method '" + headers_.path() + "' takes exactly one message, the client sent none"});
  } else if (connection_->clogged()) {
    held_ = CountWaiting();
    if (held_) connection_->Hold(shared_from_this());
  } else {
    InvokeUnary();
  }
}

void CallImpl::RunHeld() {
  held_ = false;
  if (!finishing_) InvokeUnary();
}

void CallImpl::InvokeUnary() {
  Slice request = std::move(inbox_.front());
  inbox_.clear();
  waiting_bytes_ = 0;
  if (counted_bytes_ > 0) CountWaiting();
  Invoke([&] { method_->unary(shared_from_this(), std::move(request)); });
}

void CallImpl::DeliverMessages() {
  if (delivering_ || connection_ == nullptr || !method_->stream) return;
  delivering_ = true;
  while (!inbox_.empty() || (end_received_ && !end_delivered_ && inflow_ == nullptr)) {
    if (!inbox_.empty() && (messages_paused_ || Backlogged())) break;  // PauseMessages and RunOnSent go on
    std::function<void(std::optional<Slice>)> callback;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (done() || !on_message_) break;
      callback = std::move(on_message_);  // held here, so that Finish may clear it while it runs
      on_message_ = nullptr;
    }
    std::optional<Slice> message;
    if (inbox_.empty()) {
      end_delivered_ = true;
    } else {
      message = std::move(inbox_.front());
      inbox_.pop_front();
      waiting_bytes_ -= Weight(*message);
    }
    Invoke([&] { callback(std::move(message)); });
    std::lock_guard<std::mutex> lock(mutex_);
    if (!done() && !on_message_) on_message_ = std::move(callback);
  }
  delivering_ = false;
  if (connection_ == nullptr || finishing_) return;
  if (counted_bytes_ > waiting_bytes_) CountWaiting();
  if (!inbox_.empty()) return;
  if (inflow_ != nullptr) {
    Inflate();
  } else {
    GrantWithheld();
  }
}

void CallImpl::PauseMessages(bool paused) {
  messages_paused_ = paused;
  if (!paused) DeliverMessages();
}

// A client that does not take the answers of one stream must not ask for more on it. It stops there, long before it
// could clog the connection for the streams beside it.
bool CallImpl::Backlogged() const {
  return unsent_bytes() > connection_->owner().context().options.max_pending_bytes / kBacklogShare;
}

void CallImpl::GrantWithheld() {
  if (unconsumed_ == 0 || (method_->stream && !inbox_.empty())) return;
  nghttp2_session_consume_stream(connection_->session(), stream_id_, std::exchange(unconsumed_, 0));
  connection_->MarkDirty();
}

void CallImpl::Abort(const Status& status, std::string_view http_status) {
  if (connection_ == nullptr || finishing_) return;
  const std::shared_ptr<CallImpl> held = shared_from_this();
  std::function<void()> on_cancel;
  if (!MarkEnded(&on_cancel)) {  // the handler was faster, its answer waits to be taken over
    Pump();
    return;
  }
  finishing_ = true;
  final_status_ = status;
  DropWaiting();
  loop_->Disarm(&deadline_timer_);
  if (!submitted_) {
    Submit(http_status);
  } else if (outgoing_.empty()) {
    ResumeData();
  } else {
    // Part of a message may be out and the rest blocked by flow control: trailers could not follow.
    nghttp2_submit_rst_stream(connection_->session(), NGHTTP2_FLAG_NONE, stream_id_, NGHTTP2_CANCEL);
  }
  connection_->MarkDirty();
  if (on_cancel) Invoke(on_cancel);
}

void CallImpl::StreamClosed() {
  loop_->Disarm(&deadline_timer_);
  std::function<void()> on_cancel;
  const bool ended_early = MarkEnded(&on_cancel);
  if (ended_early && on_cancel) Invoke(on_cancel);
  connection_->SubtractUnsent(outgoing_.size());
  outgoing_.Clear();
  unsent_.store(0, std::memory_order_relaxed);
  DropWaiting();
  if (held_) connection_->Unhold(this);
  connection_ = nullptr;
}

void CallImpl::Pump() {
  if (connection_ == nullptr || finishing_) return;
  Outbox taken;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (method_->unary && !outbox_.finish) return;  // its message goes out together with Finish
    std::swap(taken, outbox_);
  }
  if (taken.messages.empty() && !taken.finish) return;
  if (method_->unary && taken.finish->ok() && taken.messages.size() != 1) {
    connection_->owner().context().Log("handler did not send exactly one answer", headers_.path());
    taken.messages.clear();
    taken.finish = Status(Code::kInternal, "internal error");
  }
  for (const Message& message : taken.messages) {
    outgoing_.PushEncoded(message, answer_encoding_ != Encoding::kIdentity && message.size() > 0);
    connection_->AddUnsent(message.size() + kPrefixBytes);
  }
  if (taken.finish) {
    finishing_ = true;
    final_status_ = *std::move(taken.finish);
    SetTrailers(std::move(taken.trailers));
    if (waiting_bytes_ > 0) DropWaiting();
    loop_->Disarm(&deadline_timer_);
    DropAnswerOfFailure();
  }
  if (!submitted_) {
    Submit("200");
  } else {
    ResumeData();
  }
  connection_->MarkDirty();
}

void CallImpl::SetTrailers(Metadata trailers) {
  Status checked = CheckMetadata(trailers);
  if (checked.ok()) {
    final_trailers_ = std::move(trailers);
  } else {
    connection_->owner().context().Log("trailers cannot be sent", headers_.path() + ": " + checked.message());
  }
}

void CallImpl::DropAnswerOfFailure() {
  if (final_status_.ok() || !method_->unary || submitted_) return;
  connection_->SubtractUnsent(outgoing_.size());
  outgoing_.Clear();
}

void CallImpl::ResumeData() {
  if (!deferred_) return;
  deferred_ = false;
  nghttp2_session_resume_data(connection_->session(), stream_id_);
}

void CallImpl::Submit(std::string_view http_status) {
  HeaderList& headers = ScratchHeaders();
  headers.AddStatic(":status", http_status);
  headers.AddStatic("content-type", "application/grpc");
  submitted_ = true;
  if (finishing_ && outgoing_.empty()) {
    if (final_status_.code() == Code::kUnimplemented) headers.AddStatic("grpc-accept-encoding", kAcceptedEncodings);
    headers.AddStatus(final_status_);
    headers.Add(final_trailers_);
    nghttp2_submit_response(connection_->session(), stream_id_, headers.data(), headers.size(), nullptr);
    return;
  }
  if (answer_encoding_ != Encoding::kIdentity) headers.AddStatic("grpc-encoding", EncodingName(answer_encoding_));
  nghttp2_data_provider provider{};
  provider.source.ptr = this;
  provider.read_callback = ReadCallData;
  nghttp2_submit_response(connection_->session(), stream_id_, headers.data(), headers.size(), &provider);
}

ssize_t CallImpl::ReadData(std::size_t length, std::uint32_t* flags) {
  if (outgoing_.empty() && !finishing_) {
    deferred_ = true;
    return NGHTTP2_ERR_DEFERRED;
  }
  const std::size_t bytes = std::min(length, outgoing_.size());
  *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
  if (finishing_ && bytes == outgoing_.size()) {
    *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
    SubmitTrailers();
  }
  return static_cast<ssize_t>(bytes);
}

void CallImpl::SubmitTrailers() {
  HeaderList& headers = ScratchHeaders();
  headers.AddStatus(final_status_);
  headers.Add(final_trailers_);
  nghttp2_submit_trailer(connection_->session(), stream_id_, headers.data(), headers.size());
}

void CallImpl::MoveData(std::size_t length) {
  outgoing_.MoveTo(&connection_->output(), length);
  connection_->SubtractUnsent(length);
  if (unsent_.fetch_sub(length, std::memory_order_relaxed) == length && method_->stream) {
    connection_->AllSent(shared_from_this());
  }
}

void CallImpl::RunOnSent() {
  std::function<void()> callback;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (done()) return;
    callback = std::move(on_sent_);
    on_sent_ = nullptr;
  }
  if (callback) {
    Invoke(callback);
    std::lock_guard<std::mutex> lock(mutex_);
    if (!done() && !on_sent_) on_sent_ = std::move(callback);
  }
  DeliverMessages();
}

}  // namespace mesh::rpc
