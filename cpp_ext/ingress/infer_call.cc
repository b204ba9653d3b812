#include "ingress/infer_call.h"

#include <algorithm>
#include <exception>
#include <string>
#include <utility>

#include "common/block_pool.h"
#include "ingress/classification.h"
#include "ingress/failure.h"
#include "ingress/infer_message.h"
#include "ingress/text.h"

namespace mesh::ingress {
namespace {

using std::chrono::steady_clock;

constexpr const char* kDecoupled = "ModelInfer RPC doesn't support models with decoupled transaction policy";

// Working memory of an event loop's thread, so that a request allocates none of it.
struct Workspace {
  InferMessage message;
  CStringArena arena;
};

Workspace& LocalWorkspace() {
  thread_local Workspace workspace;
  workspace.message.Clear();
  workspace.arena.Clear();
  return workspace;
}

// Microseconds until the deadline; 0 for none. A deadline that has passed is 1: Triton reads 0 as "no timeout".
std::uint64_t MicrosecondsLeft(const std::optional<steady_clock::time_point>& deadline) {
  if (!deadline.has_value()) return 0;
  const auto left = std::chrono::duration_cast<std::chrono::microseconds>(*deadline - steady_clock::now()).count();
  return left > 0 ? static_cast<std::uint64_t>(left) : 1;
}

}  // namespace

void ModelInferCall::Start(std::shared_ptr<rpc::ServerCall> call, rpc::Slice request, const triton::Server& server,
                           std::shared_ptr<Instruments> instruments) {
  auto infer = std::allocate_shared<ModelInferCall>(BlockAllocator<ModelInferCall>(), std::move(call),
                                                    std::move(request), server, std::move(instruments));
  Status status;
  try {
    status = infer->Submit();
  } catch (const std::exception& error) {
    status = InternalFailure("ModelInfer request", error.what());
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

Status ModelInferCall::Submit() {
  Workspace& work = LocalWorkspace();
  if (Status status = ParseInferMessage(request_.view(), &work.message); !status.ok()) return status;
  Result<std::int64_t> version = ParseVersion(work.message.model_version);
  if (!version.ok()) return version.status();
  const char* model = work.arena.Copy(work.message.model_name);
  Result<std::uint32_t> transaction = server_.TransactionFlags(model, version.value());
  if (!transaction.ok()) return transaction.status();
  if ((transaction.value() & TRITONSERVER_TXN_DECOUPLED) != 0) return {Code::kUnimplemented, kDecoupled};
  Result<triton::RequestHandle> request = server_.NewRequest(model, version.value());
  if (!request.ok()) return request.status();
  Status status =
      BuildRequest(work.message, MicrosecondsLeft(call_->deadline()), request.value().get(), &work.arena, &extras_);
  if (!status.ok()) return status;
  FollowCancel();
  return server_.Infer(std::move(request).value(), shared_from_this());
}

void ModelInferCall::FollowCancel() {
  call_->OnCancel([weak = weak_from_this()] {
    if (const std::shared_ptr<triton::InferCall> infer = weak.lock(); infer != nullptr) infer->Cancel();
  });
}

void ModelInferCall::OnReleased() { request_ = {}; }

void ModelInferCall::OnResponse(triton::InferResponse response, bool final) {
  Status status;
  try {
    if (!final) {  // the model became decoupled after it was asked
      status = {Code::kUnimplemented, kDecoupled};
      Cancel();
    } else if (!response.present()) {
      status = InternalFailure("ModelInfer response", "Triton ended the request without a response");
    } else {
      status = Answer(response);
    }
  } catch (const std::exception& error) {
    status = InternalFailure("ModelInfer response", error.what());
  }
  if (!status.ok()) End(status, {});
}

Status ModelInferCall::Answer(const triton::InferResponse& response) {
  ResponseParts parts;
  const char* model = "";
  Status status = response.Model(&model, &parts.model_version);
  if (Status failed = response.status(); !failed.ok()) return WithoutStack(std::move(failed), model);
  if (!status.ok()) return status;
  parts.model_name = model;
  parts.id = response.id();
  if (status = Collect(response, &parts); !status.ok()) return status;
  if (status = AppendParameters(response, &parts.parameters); !status.ok()) return status;
  Result<rpc::Message> message = WriteResponse(parts, {shared_from_this(), scratch_.data(), scratch_.size()});
  if (!message.ok()) return message.status();
  End({}, std::move(message).value());
  return {};
}

Status ModelInferCall::Collect(const triton::InferResponse& response, ResponseParts* parts) {
  const std::uint32_t count = response.output_count();
  parts->outputs.reserve(count);
  for (std::uint32_t i = 0; i < count; ++i) {
    Result<triton::Output> found = response.GetOutput(i);
    if (!found.ok()) return found.status();
    const triton::Output& output = found.value();
    const auto classes = std::find_if(extras_.classifications.begin(), extras_.classifications.end(),
                                      [&](const auto& entry) { return entry.first == output.name; });
    if (classes != extras_.classifications.end()) {
      if (Status status = CollectClasses(response, i, output, classes->second, parts); !status.ok()) return status;
      continue;
    }
    OutputPart part{output.name, triton::DataTypeName(output.type), output.shape,
                    output.dims, {output.data, output.size},        {}};
    if (output.size > kCopyBytes) part.owned = response.Share(output);
    parts->outputs.push_back(std::move(part));
  }
  return {};
}

Status ModelInferCall::CollectClasses(const triton::InferResponse& response, std::uint32_t index,
                                      const triton::Output& output, std::uint32_t count, ResponseParts* parts) {
  Result<std::uint32_t> flags = server_.BatchFlags(std::string(parts->model_name).c_str(), parts->model_version);
  if (!flags.ok()) return flags.status();
  const bool batched = (flags.value() & TRITONSERVER_BATCH_FIRST_DIM) != 0;
  Result<Classification> made = Classify(response, index, output, count, batched);
  if (!made.ok()) return made.status();
  const auto kept = std::make_shared<const Classification>(std::move(made).value());
  const std::string& bytes = kept->bytes;
  parts->outputs.push_back({output.name,
                            triton::DataTypeName(TRITONSERVER_TYPE_BYTES),
                            kept->shape.data(),
                            kept->shape.size(),
                            {bytes.data(), bytes.size()},
                            {kept, bytes.data(), bytes.size()}});
  return {};
}

void ModelInferCall::End(const Status& status, rpc::Message message) {
  if (ended_.exchange(true)) return;
  const std::shared_ptr<rpc::ServerCall> call = std::move(call_);
  instruments_->response_bytes.Add(message.size());
  instruments_->infer.Count(status.code(), steady_clock::now() - started_);
  if (status.ok()) {
    call->Reply(std::move(message));
  } else {
    call->Finish(status);
  }
  instruments_->in_flight.fetch_sub(1, std::memory_order_release);
}

}  // namespace mesh::ingress
