#include "user_code/model_question.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "triton/datatype.h"
#include "triton/library.h"

namespace mesh::user {
namespace {

using triton::ToStatus;

struct ModelReply final : MeshReply {
  explicit ModelReply(triton::InferResponse given) : response(std::move(given)) {}
  triton::InferResponse response;
};

Result<std::unique_ptr<MeshReply>> ReadReply(triton::InferResponse response) {
  auto reply = std::make_unique<ModelReply>(std::move(response));
  for (std::uint32_t index = 0; index < reply->response.output_count(); ++index) {
    const Result<triton::Output> output = reply->response.GetOutput(index);
    if (!output.ok()) return output.status();
    const triton::Output& tensor = output.value();
    reply->outputs.push_back(
        {tensor.name, triton::DataTypeName(tensor.type), tensor.shape, tensor.dims, tensor.data, tensor.size});
  }
  return std::unique_ptr<MeshReply>(std::move(reply));
}

Result<std::int64_t> VersionOf(const std::string& text) {
  if (text.empty()) return triton::kAnyVersion;
  if (text.find_first_not_of("0123456789") == std::string::npos && text.size() < 19) return std::stoll(text);
  return Status(Code::kInvalidArgument, "the version '" + text + "' of a model is not a number");
}

// One question: told when Triton has answered and has released the inputs, which are the asker's memory.
class ModelQuestion final : public triton::InferCall {
 public:
  explicit ModelQuestion(std::shared_ptr<Asker> asker) : asker_(std::move(asker)) {}

  Status Submit(const triton::Server& server, const MeshQuestion& question) {
    Result<std::int64_t> version = VersionOf(question.version);
    if (!version.ok()) return version.status();
    Result<std::uint32_t> flags = server.TransactionFlags(question.model, version.value());
    if (!flags.ok()) return flags.status();
    if ((flags.value() & TRITONSERVER_TXN_DECOUPLED) != 0) return AnswersOften(question.model);
    Result<triton::RequestHandle> request = server.NewRequest(question.model, version.value());
    if (!request.ok()) return request.status();
    if (Status status = Fill(question, request.value().get()); !status.ok()) return status;
    asker_->WhenOver([weak = weak_from_this()] {
      if (const std::shared_ptr<InferCall> self = weak.lock()) self->Cancel();
    });
    return server.Infer(std::move(request).value(), shared_from_this());
  }

 private:
  static Status AnswersOften(const std::string& model) {
    return {Code::kUnimplemented, "model '" + model + "' answers any number of times, which a call cannot take"};
  }

  Status Fill(const MeshQuestion& question, TRITONSERVER_InferenceRequest* request) {
    const triton::Api& api = triton::GetApi();
    Status status = ToStatus(api.InferenceRequestSetId(request, question.id));
    if (!status.ok()) return status;
    for (std::size_t index = 0; index < question.input_count; ++index) {
      if (status = AddInput(question.inputs[index], request); !status.ok()) return status;
    }
    for (std::size_t index = 0; index < question.output_count; ++index) {
      status = ToStatus(api.InferenceRequestAddRequestedOutput(request, question.outputs[index]));
      if (!status.ok()) return status;
    }
    if (!asker_->deadline()) return {};
    const auto left = std::chrono::duration_cast<std::chrono::microseconds>(*asker_->deadline() - steady_clock::now());
    return ToStatus(api.InferenceRequestSetTimeoutMicroseconds(
        request, static_cast<std::uint64_t>(std::max<std::int64_t>(left.count(), 1))));
  }

  static Status AddInput(const MeshTensor& input, TRITONSERVER_InferenceRequest* request) {
    const triton::Api& api = triton::GetApi();
    const triton::DataType type = triton::ParseDataType(input.datatype);
    const std::size_t element = triton::DataTypeSize(type);
    const std::optional<std::int64_t> count = triton::ElementCount(input.shape, input.dims);
    if (element != 0 && (!count || static_cast<std::uint64_t>(*count) != input.size / element)) {
      return {Code::kInvalidArgument, std::string("input '") + input.name + "' has " + std::to_string(input.size) +
                                          " bytes, which do not fit its shape"};
    }
    Status status = ToStatus(api.InferenceRequestAddInput(request, input.name, type, input.shape, input.dims));
    if (!status.ok()) return status;
    return ToStatus(
        api.InferenceRequestAppendInputData(request, input.name, input.data, input.size, TRITONSERVER_MEMORY_CPU, 0));
  }

  void OnResponse(triton::InferResponse response, bool final) override {
    if (!final) return Cancel();  // the model became one that answers often: its end tells
    try {
      Keep(std::move(response));
    } catch (const std::exception& error) {
      status_ = {Code::kInternal, error.what()};
    }
    TellIfOver();
  }

  void OnReleased() override { TellIfOver(); }

  void Keep(triton::InferResponse response) {
    status_ = response.present() ? response.status() : Status(Code::kInternal, "the model gave no answer");
    if (!status_.ok()) return;
    Result<std::unique_ptr<MeshReply>> reply = ReadReply(std::move(response));
    status_ = reply.status();
    if (reply.ok()) reply_ = std::move(reply).value();
  }

  // Called twice, by different threads perhaps.
  void TellIfOver() {
    if (ends_.fetch_add(1) != 1) return;
    // The reply may be kept for long, and this with it, but not the request that it was asked for.
    const std::shared_ptr<Asker> asker = std::move(asker_);
    asker->Tell(std::move(status_), std::move(reply_));
  }

  std::shared_ptr<Asker> asker_;  // until it is told
  std::atomic<int> ends_{0};
  Status status_;
  std::unique_ptr<MeshReply> reply_;
};

}  // namespace

void AskModel(const triton::Server& server, const MeshQuestion& question, const std::shared_ptr<Asker>& asker) {
  const auto call = std::make_shared<ModelQuestion>(asker);
  if (Status status = call->Submit(server, question); !status.ok()) asker->Tell(std::move(status), nullptr);
}

}  // namespace mesh::user
