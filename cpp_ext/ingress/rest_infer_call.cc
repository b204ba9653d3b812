#include "ingress/rest_infer_call.h"

#include <charconv>
#include <exception>
#include <optional>
#include <utility>

#include "common/block_pool.h"
#include "ingress/failure.h"
#include "ingress/rest_answer.h"
#include "ingress/workspace.h"
#include "triton/library.h"

namespace mesh::ingress {
namespace {

using std::chrono::steady_clock;

constexpr const char* kRawInput = "raw_input";
// Larger tensors belong behind the JSON, as bytes.
constexpr std::size_t kMaxJsonBytes = 32UL << 20;
// What the tree of a text may take at most, for each of its bytes ("[1,1,1,...").
constexpr std::size_t kTreeFactor = 16;
constexpr std::size_t kUncounted = 64UL * 1024;

// How much of the body is JSON: what the header says, or all of it.
Result<std::size_t> JsonSize(const http::Request& request, std::size_t body_size) {
  const std::optional<std::string_view> text = request.Header("inference-header-content-length");
  if (!text.has_value()) return body_size;
  std::int64_t size = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), size);
  if (error == std::errc() && end == text->data() + text->size() && size >= 0 &&
      static_cast<std::uint64_t>(size) <= body_size) {
    return static_cast<std::size_t>(size);
  }
  return Status(Code::kInvalidArgument, "inference header size should be in range (0, " + std::to_string(body_size) +
                                            "), got: " + Printable(*text));
}

}  // namespace

Result<JsonRoom> JsonRoom::Take(const http::Exchange& exchange, std::size_t json_bytes) {
  if (json_bytes > kMaxJsonBytes) {
    return Status(Code::kInvalidArgument, "the JSON of a request may have " + std::to_string(kMaxJsonBytes) +
                                              " bytes, this one has " + std::to_string(json_bytes) +
                                              "; send tensors as binary data");
  }
  const std::size_t wanted = json_bytes > kUncounted ? json_bytes * kTreeFactor : 0;
  if (!exchange.budget()->Take(wanted)) {
    return Status(Code::kUnavailable, exchange.budget()->Full("the JSON of a request").message());
  }
  return JsonRoom(exchange.budget(), wanted);
}

void JsonRoom::KeepOnly(const RequestExtras& extras) {
  std::size_t bytes = 0;
  for (const std::string& values : extras.typed_contents) bytes += values.size();
  if (bytes >= taken_) return;
  budget_->Give(taken_ - bytes);
  taken_ = bytes;
}

Result<bool> IsDecoupled(const RestTarget& target) {
  Result<std::uint32_t> transaction = target.server.TransactionFlags(target.model.c_str(), target.version);
  if (!transaction.ok()) return transaction.status();
  return (transaction.value() & TRITONSERVER_TXN_DECOUPLED) != 0;
}

void RestInferCall::Start(std::shared_ptr<http::Exchange> exchange, RestTarget target) {
  auto infer =
      std::allocate_shared<RestInferCall>(BlockAllocator<RestInferCall>(), std::move(exchange), std::move(target));
  Status status;
  try {
    status = infer->Submit();
  } catch (const std::exception& error) {
    status = InternalFailure("REST infer request", error.what(), infer->trace_context());
  }
  if (!status.ok()) infer->End(status, {});
}

RestInferCall::RestInferCall(std::shared_ptr<http::Exchange> exchange, RestTarget target)
    : target_(std::move(target)),
      started_(steady_clock::now()),
      exchange_(std::move(exchange)),
      body_(exchange_->request().TakeBody()) {
  target_.instruments->in_flight.fetch_add(1, std::memory_order_relaxed);
  target_.instruments->request_bytes.Add(body_.size());
}

Status RestInferCall::Submit() {
  Result<bool> decoupled = IsDecoupled(target_);
  if (!decoupled.ok()) return decoupled.status();
  if (decoupled.value()) {
    return {Code::kUnimplemented, "HTTP end point doesn't support models with decoupled transaction policy"};
  }
  const http::Request& http = exchange_->request();
  if (const auto encoding = http.Header("content-encoding");
      encoding.has_value() && !rpc::ParseEncoding(*encoding).has_value()) {
    return {Code::kUnimplemented, "Unsupported compression type"};
  }
  encoding_ = WantedEncoding(http.Header("accept-encoding").value_or(std::string_view()));
  Result<triton::RequestHandle> request = target_.server.NewRequest(target_.model.c_str(), target_.version);
  if (!request.ok()) return request.status();
  if (Status status = Read(request.value().get()); !status.ok()) return status;
  FollowCancel();
  SampledTrace sampled = target_.instruments->traces.Sample(target_.model);
  trace_ = std::move(sampled.trace);
  if (trace_ != nullptr) {
    trace_->SetContext(trace_context());
    trace_->Mark("HTTP_RECV_END", started_);
  }
  return target_.server.Infer(std::move(request).value(), shared_from_this(), std::move(sampled.handle));
}

Status RestInferCall::Read(TRITONSERVER_InferenceRequest* request) {
  Result<std::size_t> json_size = JsonSize(exchange_->request(), body_.size());
  if (!json_size.ok()) return json_size.status();
  if (json_size.value() == 0) return ReadRaw(request);
  Result<JsonRoom> room = JsonRoom::Take(*exchange_, json_size.value());
  if (!room.ok()) return room.status();
  Workspace& work = LocalWorkspace();
  RestInferReader reader(target_.model, &work.message, &extras_, &forms_);
  Status status = reader.Read(body_.view().substr(0, json_size.value()), body_.view().substr(json_size.value()));
  if (!status.ok()) return status;
  status = BuildRequest(work.message, 0, request, target_.shared_memory, &work.arena, &extras_);
  if (json_size.value() == body_.size()) body_ = {};  // all values were copied out of it
  room_.emplace(std::move(room).value());
  room_->KeepOnly(extras_);
  return status;
}

// The whole body is the one input of the model.
Status RestInferCall::ReadRaw(TRITONSERVER_InferenceRequest* request) {
  const triton::Api& api = triton::GetApi();
  forms_.binary_default = true;
  Status status = triton::ToStatus(api.InferenceRequestAddRawInput(request, kRawInput));
  if (!status.ok()) return status;
  return triton::ToStatus(
      api.InferenceRequestAppendInputData(request, kRawInput, body_.data(), body_.size(), TRITONSERVER_MEMORY_CPU, 0));
}

TraceContext RestInferCall::trace_context() const {
  return exchange_ == nullptr ? TraceContext() : TraceContextOf(exchange_->request());
}

void RestInferCall::FollowCancel() {
  exchange_->OnCancel([weak = weak_from_this()] {
    if (const std::shared_ptr<triton::InferCall> infer = weak.lock(); infer != nullptr) infer->Cancel();
  });
}

void RestInferCall::OnResponse(triton::InferResponse response, bool final) {
  Status status;
  if (trace_ != nullptr) trace_->Mark("INFER_RESPONSE_COMPLETE");
  try {
    if (!final) {  // the model became decoupled after it was asked
      status = {Code::kInternal, "expected a single response, got 2"};
      Cancel();
    } else if (!response.present()) {
      status = InternalFailure("REST infer response", "Triton ended the request without a response", trace_context());
    } else {
      status = Answer(response);
    }
  } catch (const std::exception& error) {
    status = InternalFailure("REST infer response", error.what(), trace_context());
  }
  if (!status.ok()) End(status, {});
}

Status RestInferCall::Answer(const triton::InferResponse& response) {
  if (Status failed = response.status(); !failed.ok()) {
    return WithoutStack(std::move(failed), target_.model, trace_context());
  }
  Result<http::Response> answer = RestAnswer(response, extras_, target_.server, forms_, encoding_);
  if (!answer.ok()) return answer.status();
  End({}, std::move(answer).value());
  return {};
}

void RestInferCall::End(const Status& status, http::Response response) {
  if (ended_.exchange(true)) return;
  const std::shared_ptr<http::Exchange> exchange = std::move(exchange_);
  target_.instruments->response_bytes.Add(response.body.size());
  target_.instruments->infer.Count(status.code(), steady_clock::now() - started_);
  if (!status.ok()) {
    LogFailedRequest(TraceContextOf(exchange->request()), "REST infer", status);
    response = RestError(status);
  }
  if (trace_ != nullptr) trace_->Mark("HTTP_SEND_START");
  exchange->Respond(std::move(response));
  if (trace_ != nullptr) trace_->Mark("HTTP_SEND_END");
  target_.instruments->in_flight.fetch_sub(1, std::memory_order_release);
}

}  // namespace mesh::ingress
