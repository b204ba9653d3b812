#include "ingress/stream_infer.h"

#include <algorithm>
#include <exception>
#include <utility>
#include <vector>

#include "common/block_pool.h"
#include "ingress/failure.h"
#include "ingress/infer_answer.h"
#include "ingress/infer_request.h"

namespace mesh::ingress {
namespace {

using std::chrono::steady_clock;

constexpr std::string_view kMethod = "ModelStreamInfer";

// A client that does not read its answers may let that much pile up. A model that goes on and on must not fill memory.
constexpr std::size_t kMaxUnread = 256UL << 20;
// Answers that wait for the one of an earlier request. More are not those of a client that means well.
constexpr std::size_t kMaxOrdered = 16UL * 1024;

Status NotRead() {
  return {Code::kResourceExhausted,
          "the client does not read its answers: more than " + std::to_string(kMaxUnread) + " bytes of them wait"};
}

Status TooManyInOrder() {
  return {Code::kResourceExhausted,
          "more than " + std::to_string(kMaxOrdered) + " requests of the stream wait for the answer of an earlier one"};
}

template <typename Step>
Status Guarded(const rpc::ServerCall& call, Step step) {
  try {
    return step();
  } catch (const std::exception& error) {
    return InternalFailure("ModelStreamInfer request", error.what(), TraceContextOf(call.metadata()));
  }
}

bool WantsErrorCodes(const rpc::ServerCall& call) {
  const rpc::Metadata& metadata = call.metadata();
  return std::any_of(metadata.begin(), metadata.end(),
                     [](const auto& entry) { return entry.first == "triton_grpc_error" && entry.second == "true"; });
}

}  // namespace

// ---------------------------------------------------------------- the streams of a service

bool OpenStreams::Add(const std::shared_ptr<ModelStream>& stream) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!draining_) open_.emplace(stream.get(), stream);
  return !draining_;
}

void OpenStreams::Remove(const ModelStream* stream) {
  const std::lock_guard<std::mutex> lock(mutex_);
  open_.erase(stream);
}

void OpenStreams::Drain() {
  std::vector<std::shared_ptr<ModelStream>> open;  // drained, and perhaps freed, outside of the lock
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    draining_ = true;
    for (const auto& [stream, weak] : open_) {
      if (auto held = weak.lock(); held != nullptr) open.push_back(std::move(held));
    }
  }
  for (const auto& stream : open) stream->Drain();
}

// ---------------------------------------------------------------- a stream

void ModelStream::Start(const std::shared_ptr<rpc::ServerCall>& call, const triton::Server& server,
                        const SharedMemory& shared_memory, const std::shared_ptr<Instruments>& instruments,
                        const std::shared_ptr<OpenStreams>& streams) {
  const auto stream = std::make_shared<ModelStream>(call, server, shared_memory, instruments, streams);
  if (!streams->Add(stream)) {
    const std::lock_guard<std::mutex> lock(stream->mutex_);
    return stream->FinishDraining();
  }
  call->OnCancel([weak = std::weak_ptr<ModelStream>(stream)] {
    if (const auto cancelled = weak.lock(); cancelled != nullptr) cancelled->OnCancel();
  });
  // The callback keeps the stream, until the call has ended.
  call->OnMessage([stream](std::optional<rpc::Slice> message) { stream->OnMessage(std::move(message)); });
}

ModelStream::ModelStream(std::shared_ptr<rpc::ServerCall> call, const triton::Server& server,
                         const SharedMemory& shared_memory, std::shared_ptr<Instruments> instruments,
                         std::shared_ptr<OpenStreams> streams)
    : call_(std::move(call)),
      server_(server),
      shared_memory_(shared_memory),
      instruments_(std::move(instruments)),
      streams_(std::move(streams)),
      started_(steady_clock::now()),
      errors_end_it_(WantsErrorCodes(*call_)) {}

ModelStream::~ModelStream() { streams_->Remove(this); }

void ModelStream::OnMessage(std::optional<rpc::Slice> message) {
  if (message.has_value()) return Take(*std::move(message));
  const std::lock_guard<std::mutex> lock(mutex_);
  half_closed_ = true;
  FinishIfDone();
}

void ModelStream::Take(rpc::Slice request) {
  instruments_->request_bytes.Add(request.size());
  const auto infer =
      std::allocate_shared<StreamedInfer>(BlockAllocator<StreamedInfer>(), shared_from_this(), std::move(request));
  Status status = Guarded(*call_, [&] { return infer->Prepare(); });
  if (status.ok()) status = instruments_->Admit();
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!Register(infer)) return;
    if (draining_) status = Draining();
  }
  if (status.ok()) status = Guarded(*call_, [&] { return infer->Submit(); });
  if (status.ok()) return;
  infer->Forget();
  if (errors_end_it_) Fail(status);
  LogFailedRequest(infer->trace_context(), kMethod, status);
  Answer(infer.get(), EncodeStreamedError(status, {{}, infer->id(), true}), true);
}

bool ModelStream::Register(const std::shared_ptr<StreamedInfer>& infer) {
  if (ended_) return false;
  running_.emplace(infer.get(), infer);
  if (infer->ordered()) order_.push_back(infer);
  instruments_->in_flight.fetch_add(1, std::memory_order_relaxed);
  return true;
}

void ModelStream::Answer(StreamedInfer* infer, std::optional<rpc::Message> message, bool last) {
  std::shared_ptr<StreamedInfer> held;  // freed outside of the lock
  Status over;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = running_.find(infer);
    if (found == running_.end()) return;
    if (last) {
      held = std::move(found->second);
      running_.erase(found);
    }
    if (!ended_ && infer->ordered()) {
      infer->answer_ = std::move(message);
      infer->answered_ = last;
      SendInOrder();
    } else if (!ended_ && message.has_value()) {
      Send(infer, *std::move(message));
    }
    if (!ended_ && call_->unsent_bytes() > kMaxUnread) over = NotRead();
    if (!ended_ && order_.size() > kMaxOrdered) over = TooManyInOrder();
    FinishIfDone();
  }
  if (last) instruments_->in_flight.fetch_sub(1, std::memory_order_release);
  if (!over.ok()) Fail(over);
}

void ModelStream::SendInOrder() {
  while (!order_.empty() && order_.front()->answered_) {
    StreamedInfer* next = order_.front().get();
    if (next->answer_.has_value()) Send(next, *std::move(next->answer_));
    order_.pop_front();
  }
}

void ModelStream::Send(StreamedInfer* infer, rpc::Message message) {
  instruments_->response_bytes.Add(message.size());
  if (infer->trace_ != nullptr) infer->trace_->Mark("GRPC_SEND_START");
  call_->Send(std::move(message));
  if (infer->trace_ != nullptr) infer->trace_->Mark("GRPC_SEND_END");
}

void ModelStream::FinishIfDone() {
  if (ended_ || !running_.empty()) return;
  if (half_closed_) return Finish(Status());
  if (draining_) FinishDraining();
}

// Nothing of it failed: its requests are answered, and the client goes elsewhere.
void ModelStream::FinishDraining() {
  ended_ = true;
  const Status status = Draining();
  instruments_->stream.CountRefused(status.code());
  call_->Finish(status);
}

void ModelStream::Finish(const Status& status) {
  ended_ = true;
  instruments_->stream.Count(status.code(), steady_clock::now() - started_);
  call_->Finish(status);
}

void ModelStream::Fail(const Status& status) {
  std::vector<std::shared_ptr<StreamedInfer>> running;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!ended_) Finish(status);
    for (const auto& [infer, held] : running_) running.push_back(held);
    order_.clear();
  }
  for (const auto& infer : running) infer->Cancel();
}

void ModelStream::OnCancel() { Fail({Code::kCancelled, "the client cancelled the stream"}); }

void ModelStream::Drain() {
  const std::lock_guard<std::mutex> lock(mutex_);
  draining_ = true;
  FinishIfDone();
}

// ---------------------------------------------------------------- a request

StreamedInfer::StreamedInfer(std::shared_ptr<ModelStream> stream, rpc::Slice request)
    : stream_(std::move(stream)), request_(std::move(request)) {}

triton::CallFacts StreamedInfer::Facts() const {
  const std::shared_ptr<rpc::ServerCall>& call = stream_->call_;
  return {call->metadata(), call->deadline(), [call] { return call->unsent_bytes(); }};
}

TraceContext StreamedInfer::trace_context() const { return TraceContextOf(stream_->call_->metadata()); }

Status StreamedInfer::Prepare() {
  PreparedRequest prepared;
  Status status = PrepareRequest(request_.view(), stream_->call_->deadline(), stream_->server_, stream_->shared_memory_,
                                 Answers::kAnyNumber, &prepared, &extras_);
  model_ = prepared.model;
  id_ = prepared.id;
  decoupled_ = prepared.decoupled;
  prepared_ = std::move(prepared.request);
  return status;
}

void StreamedInfer::Forget() {
  prepared_.reset();
  request_ = {};
}

Status StreamedInfer::Submit() {
  SampledTrace sampled = stream_->instruments_->traces.Sample(model_);
  trace_ = std::move(sampled.trace);
  if (trace_ != nullptr) {
    trace_->SetContext(trace_context());
    trace_->Mark("GRPC_WAITREAD_END");
  }
  return stream_->server_.Infer(std::move(prepared_), shared_from_this(), std::move(sampled.handle));
}

void StreamedInfer::OnResponse(triton::InferResponse response, bool final) {
  Status status;
  if (trace_ != nullptr) trace_->Mark("INFER_RESPONSE_COMPLETE");
  try {
    Result<std::optional<rpc::Message>> message = Encode(response, final);
    if (message.ok()) return stream_->Answer(this, std::move(message).value(), final);
    status = message.status();
  } catch (const std::exception& error) {
    status = InternalFailure("ModelStreamInfer response", error.what(), trace_context());
  }
  LogFailedRequest(trace_context(), kMethod, status);
  if (stream_->errors_end_it_) stream_->Fail(status);
  stream_->Answer(this, EncodeStreamedError(status, {model_, id_, final}), final);
}

Result<std::optional<rpc::Message>> StreamedInfer::Encode(const triton::InferResponse& response, bool final) {
  const StreamedForm form{model_, id_, final};
  if (!response.present()) {
    if (!decoupled_) {
      return InternalFailure("ModelStreamInfer response", "Triton ended the request without a response",
                             trace_context());
    }
    return extras_.empty_final ? std::optional<rpc::Message>(EncodeStreamedEnd(form)) : std::nullopt;
  }
  if (Status failed = response.status(); !failed.ok()) return WithoutStack(std::move(failed), model_, trace_context());
  Result<rpc::Message> message = EncodeStreamedAnswer(response, extras_, stream_->server_, {}, form);
  if (!message.ok()) return message.status();
  return std::optional<rpc::Message>(std::move(message).value());
}

}  // namespace mesh::ingress
