#include "ingress/rest_generate.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "common/block_pool.h"
#include "ingress/failure.h"
#include "ingress/infer_message.h"
#include "ingress/rest_answer.h"
#include "ingress/rest_tensor.h"

namespace mesh::ingress {
namespace {

using std::chrono::steady_clock;

// A client that does not read its events may let that much pile up.
constexpr std::size_t kMaxUnread = 256UL << 20;

const Status& WrongNumber() {
  static const Status status(Code::kInternal,
                             "generate expects model to produce exactly 1 response, use generate stream for model that "
                             "generates various number of responses");
  return status;
}

// Reads a request into the message of an inference: inputs by the model's metadata, everything else as parameters.
class GenerateReader {
 public:
  GenerateReader(const Json& metadata, InferMessage* message, RequestExtras* extras)
      : inputs_(AsArray(GetMember(metadata, "inputs"))), message_(*message), extras_(*extras) {}

  void Read(const Json& request) {
    if (const Json* id = FindMember(request, "id"); id != nullptr) {
      message_.id = Named("Unable to parse 'id'", [&] { return AsString(*id); });
    }
    extras_.typed_contents.reserve(inputs_.Size());  // views are taken of its elements
    ReadMembers(request, true);
  }

 private:
  void ReadMembers(const Json& object, bool top) {
    if (!object.IsObject()) throw JsonFault{{Code::kInternal, "attempt to get members for non-object"}};
    for (const auto& member : object.GetObject()) {
      const std::string_view name = AsString(member.name);
      if (top && name == "parameters") {
        ReadParameters(member.value);
      } else if (const Json* input = FindInput(name); input != nullptr) {
        ReadInput(name, *input, member.value);
      } else {
        Result<ParameterView> parameter = ToParameter(name, member.value);
        if (!parameter.ok()) throw JsonFault{parameter.status()};
        message_.parameters.push_back(parameter.value());
      }
    }
  }

  void ReadParameters(const Json& value) {
    if (FindInput("parameters") != nullptr) {
      throw JsonFault{
          {Code::kInvalidArgument, "Keyword: 'parameters' for nested schema also given as input tensor name"}};
    }
    if (!value.IsObject()) {
      throw JsonFault{{Code::kInternal,
                       "Expected JSON object for keyword: 'parameters': attempt to access JSON non-object as object"}};
    }
    Named("Converting keyword: 'parameters'", [&] { ReadMembers(value, false); });
  }

  [[nodiscard]] const Json* FindInput(std::string_view name) const {
    const auto found = std::find_if(inputs_.Begin(), inputs_.End(),
                                    [&](const Json& input) { return AsString(GetMember(input, "name")) == name; });
    return found == inputs_.End() ? nullptr : found;
  }

  void ReadInput(std::string_view name, const Json& input, const Json& value) {
    const bool seen = std::any_of(message_.inputs.begin(), message_.inputs.end(),
                                  [&](const TensorView& tensor) { return tensor.name == name; });
    if (seen) throw JsonFault{{Code::kInvalidArgument, "input '" + std::string(name) + "' is given twice"}};
    TensorView tensor;
    tensor.name = name;
    tensor.datatype = AsString(GetMember(input, "datatype"));
    tensor.shape.begin = static_cast<std::uint32_t>(message_.dims.size());
    const std::int64_t elements = value.IsArray() ? value.Size() : 1;
    FitShape(name, AsArray(GetMember(input, "shape")), elements);
    tensor.shape.count = static_cast<std::uint32_t>(message_.dims.size()) - tensor.shape.begin;
    extras_.typed_contents.push_back(JsonToTensor(value, triton::ParseDataType(tensor.datatype), name, elements));
    message_.raw_inputs.emplace_back(extras_.typed_contents.back());
    message_.inputs.push_back(tensor);
  }

  // The model's shape for that many elements: its innermost dynamic dimension takes what the fixed ones leave, the
  // others are 1.
  void FitShape(std::string_view name, const Json& shape, std::int64_t elements) {
    const auto refuse = [name] {
      throw JsonFault{{Code::kInvalidArgument,
                       "The schema can not convert input '" + std::string(name) + "' to tensor with proper shape"}};
    };
    for (const Json& dim : shape.GetArray()) {
      const std::int64_t size = AsInt(dim);
      if (size == -1) continue;
      if (size <= 0 || elements % size != 0) refuse();
      elements /= size;
    }
    const std::size_t begin = message_.dims.size();
    for (const Json& dim : shape.GetArray()) message_.dims.push_back(AsInt(dim));
    for (std::size_t i = message_.dims.size(); i > begin; --i) {
      if (message_.dims[i - 1] == -1) message_.dims[i - 1] = std::exchange(elements, 1);
    }
    if (elements != 1) refuse();
  }

  const Json& inputs_;
  InferMessage& message_;
  RequestExtras& extras_;
};

}  // namespace

void GenerateCall::Start(std::shared_ptr<http::Exchange> exchange, RestTarget target,
                         std::shared_ptr<GenerateInstruments> instruments, bool streamed) {
  auto call = std::allocate_shared<GenerateCall>(BlockAllocator<GenerateCall>(), std::move(exchange), std::move(target),
                                                 std::move(instruments), streamed);
  Status status;
  try {
    status = call->Submit();
  } catch (const std::exception& error) {
    status = InternalFailure("generate request", error.what(), TraceContextOf(call->exchange_->request()));
  }
  if (status.ok()) return;
  call->Count(status);
  call->exchange_->Respond(RestError(status));
  call->End();
}

GenerateCall::GenerateCall(std::shared_ptr<http::Exchange> exchange, RestTarget target,
                           std::shared_ptr<GenerateInstruments> instruments, bool streamed)
    : target_(std::move(target)),
      instruments_(std::move(instruments)),
      streamed_(streamed),
      started_(steady_clock::now()),
      exchange_(std::move(exchange)) {
  target_.instruments->in_flight.fetch_add(1, std::memory_order_relaxed);
  target_.instruments->request_bytes.Add(exchange_->request().body().size());
}

Status GenerateCall::Submit() {
  if (const auto encoding = exchange_->request().Header("content-encoding");
      encoding.has_value() && !rpc::ParseEncoding(*encoding).has_value()) {
    return {Code::kInvalidArgument, "Unsupported content-encoding '" + Printable(*encoding) + "'"};
  }
  Result<triton::RequestHandle> request = target_.server.NewRequest(target_.model.c_str(), target_.version);
  if (!request.ok()) return request.status();
  if (Status status = Read(request.value().get()); !status.ok()) return status;
  exchange_->OnCancel([weak = weak_from_this()] {
    if (const std::shared_ptr<triton::InferCall> call = weak.lock(); call != nullptr) call->Cancel();
  });
  SampledTrace sampled = target_.instruments->traces.Sample(target_.model);
  trace_ = std::move(sampled.trace);
  if (trace_ != nullptr) {
    trace_->SetContext(TraceContextOf(exchange_->request()));
    trace_->Mark("HTTP_RECV_END", started_);
  }
  return target_.server.Infer(std::move(request).value(), shared_from_this(), std::move(sampled.handle));
}

Status GenerateCall::Read(TRITONSERVER_InferenceRequest* request) {
  Result<std::string> metadata = target_.server.ModelMetadata(target_.model, target_.version);
  if (!metadata.ok()) return metadata.status();
  const rpc::Slice body = exchange_->request().TakeBody();
  Result<JsonRoom> room = JsonRoom::Take(*exchange_, body.size());
  if (!room.ok()) return room.status();
  rapidjson::Document model, json;
  InferMessage message;
  message.model_name = target_.model;
  Status status = ReadGuarded([&] {
    model = ParseJson(metadata.value());
    json = ParseJson(body.view());
    GenerateReader(model, &message, &extras_).Read(json);
  });
  if (!status.ok()) return status;
  room_.emplace(std::move(room).value());
  room_->KeepOnly(extras_);
  CStringArena arena;
  // Not even names that mean something elsewhere mean more than any other here.
  for (const ParameterView& parameter : std::exchange(message.parameters, {})) {
    if (Status set = SetCustomParameter(parameter, request, &arena); !set.ok()) return set;
  }
  return BuildRequest(message, 0, request, target_.shared_memory, &arena, &extras_);
}

Result<std::string> GenerateCall::Encode(const triton::InferResponse& response) {
  try {
    if (Status failed = response.status(); !failed.ok()) {
      return WithoutStack(std::move(failed), target_.model, TraceContextOf(exchange_->request()));
    }
    return GenerateAnswer(response, extras_, target_.server);
  } catch (const std::exception& error) {
    return InternalFailure("generate response", error.what(), TraceContextOf(exchange_->request()));
  }
}

void GenerateCall::OnResponse(triton::InferResponse response, bool final) {
  if (trace_ != nullptr) trace_->Mark("INFER_RESPONSE_COMPLETE");
  if (response.present()) Keep(Encode(response));
  if (final) Finish();
}

void GenerateCall::Keep(Result<std::string> answer) {
  const std::lock_guard<std::mutex> lock(mutex_);
  ++answers_;
  if (streamed_) {
    const Status status = answer.status();
    SendEvent(status.ok() ? answer.value() : http::JsonError(200, status.message()).body.Flatten(),
              HttpStatus(status.code()));
  }
  if (answers_ == 1) first_ = std::move(answer);
}

triton::CallFacts GenerateCall::Facts() const {
  triton::CallFacts facts{exchange_->request().Headers(), std::nullopt, {}};
  if (streamed_) facts.unread_bytes = [exchange = exchange_] { return exchange->unsent_bytes(); };
  return facts;
}

void GenerateCall::SendEvent(const std::string& json, int http_status) {
  if (!std::exchange(begun_, true)) {
    http::Response head;
    head.status = http_status;
    head.content_type = "text/event-stream; charset=utf-8";
    exchange_->Begin(std::move(head));
  }
  target_.instruments->response_bytes.Add(json.size());
  exchange_->Write(rpc::Message("data: " + json + "\n\n"));
  if (exchange_->unsent_bytes() <= kMaxUnread) return;
  exchange_->End();  // the client does not read; the connection's own limit ends what is stuck
  Cancel();
}

void GenerateCall::Finish() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    Status status = answers_ > 0 ? first_.status() : Status();
    if (!streamed_ && status.ok() && answers_ != 1) status = WrongNumber();
    Count(status);  // before its end: whoever has the answer finds it counted
    if (streamed_) {
      if (!begun_) {
        http::Response head;
        head.content_type = "text/event-stream; charset=utf-8";
        exchange_->Begin(std::move(head));
      }
      exchange_->End();
    } else {
      if (status.ok()) target_.instruments->response_bytes.Add(first_.value().size());
      exchange_->Respond(status.ok() ? http::Text(200, http::kJson, std::move(first_).value()) : RestError(status));
    }
  }
  End();
}

void GenerateCall::Count(const Status& status) {
  MethodInstruments& counts = streamed_ ? instruments_->generate_stream : instruments_->generate;
  counts.Count(status.code(), steady_clock::now() - started_);
  if (!status.ok()) LogFailedRequest(TraceContextOf(exchange_->request()), "generate", status);
}

void GenerateCall::End() { target_.instruments->in_flight.fetch_sub(1, std::memory_order_release); }

}  // namespace mesh::ingress
