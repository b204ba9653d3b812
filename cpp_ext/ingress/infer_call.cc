#include "ingress/infer_call.h"

#include <exception>
#include <utility>

#include "common/block_pool.h"
#include "ingress/failure.h"
#include "ingress/infer_answer.h"
#include "ingress/infer_request.h"

namespace mesh::ingress {

using std::chrono::steady_clock;

void ModelInferCall::Start(std::shared_ptr<rpc::ServerCall> call, rpc::Slice request, const triton::Server& server,
                           const SharedMemory& shared_memory, std::shared_ptr<Instruments> instruments) {
  auto infer = std::allocate_shared<ModelInferCall>(BlockAllocator<ModelInferCall>(), std::move(call),
                                                    std::move(request), server, std::move(instruments));
  Status status;
  try {
    status = infer->Submit(shared_memory);
  } catch (const std::exception& error) {
    status = InternalFailure("ModelInfer request", error.what(), infer->trace_context());
  }
  if (!status.ok()) infer->End(status, {});
}

ModelInferCall::ModelInferCall(std::shared_ptr<rpc::ServerCall> call, rpc::Slice request, const triton::Server& server,
                               std::shared_ptr<Instruments> instruments)
    : server_(server),
      instruments_(std::move(instruments)),
      started_(steady_clock::now()),
      call_(std::move(call)),
      request_(std::move(request)) {
  instruments_->in_flight.fetch_add(1, std::memory_order_relaxed);
  instruments_->request_bytes.Add(request_.size());
}

ModelInferCall::~ModelInferCall() = default;

Status ModelInferCall::Submit(const SharedMemory& shared_memory) {
  PreparedRequest prepared;
  Status status =
      PrepareRequest(request_.view(), call_->deadline(), server_, shared_memory, Answers::kOne, &prepared, &extras_);
  if (!status.ok()) return status;
  FollowCancel();
  SampledTrace sampled = instruments_->traces.Sample(prepared.model);
  trace_ = std::move(sampled.trace);
  if (trace_ != nullptr) {
    trace_->SetContext(trace_context());
    trace_->Mark("GRPC_WAITREAD_END", started_);
  }
  return server_.Infer(std::move(prepared.request), shared_from_this(), std::move(sampled.handle));
}

void ModelInferCall::FollowCancel() {
  call_->OnCancel([weak = weak_from_this()] {
    if (const std::shared_ptr<triton::InferCall> infer = weak.lock(); infer != nullptr) infer->Cancel();
  });
}

TraceContext ModelInferCall::trace_context() const {
  return call_ == nullptr ? TraceContext() : TraceContextOf(call_->metadata());
}

void ModelInferCall::OnReleased() { request_ = {}; }

triton::CallFacts ModelInferCall::Facts() const { return {call_->metadata(), call_->deadline(), {}}; }

void ModelInferCall::OnResponse(triton::InferResponse response, bool final) {
  Status status;
  if (trace_ != nullptr) trace_->Mark("INFER_RESPONSE_COMPLETE");
  try {
    if (!final) {  // the model became decoupled after it was asked
      status = DecoupledRefused();
      Cancel();
    } else if (!response.present()) {
      status = InternalFailure("ModelInfer response", "Triton ended the request without a response", trace_context());
    } else {
      status = Answer(response);
    }
  } catch (const std::exception& error) {
    status = InternalFailure("ModelInfer response", error.what(), trace_context());
  }
  if (!status.ok()) End(status, {});
}

Status ModelInferCall::Answer(const triton::InferResponse& response) {
  if (Status failed = response.status(); !failed.ok()) {
    const char* model = "";
    std::int64_t version = 0;
    static_cast<void>(response.Model(&model, &version));  // only for the log
    return WithoutStack(std::move(failed), model, trace_context());
  }
  Result<rpc::Message> message =
      EncodeAnswer(response, extras_, server_, {shared_from_this(), scratch_.data(), scratch_.size()});
  if (!message.ok()) return message.status();
  End({}, std::move(message).value());
  return {};
}

void ModelInferCall::End(const Status& status, rpc::Message message) {
  if (ended_.exchange(true)) return;
  const std::shared_ptr<rpc::ServerCall> call = std::move(call_);
  instruments_->response_bytes.Add(message.size());
  instruments_->infer.Count(CodeAtDeadline(status.code(), call->deadline()), steady_clock::now() - started_);
  if (trace_ != nullptr) trace_->Mark("GRPC_SEND_START");
  if (!status.ok()) LogFailedRequest(TraceContextOf(call->metadata()), "ModelInfer", status);
  if (status.ok()) {
    call->Reply(std::move(message));
  } else {
    call->Finish(status);
  }
  if (trace_ != nullptr) trace_->Mark("GRPC_SEND_END");
  instruments_->in_flight.fetch_sub(1, std::memory_order_release);
}

}  // namespace mesh::ingress
