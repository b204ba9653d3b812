// The body of a REST inference request: JSON, and behind it the tensors that are binary.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/status.h"
#include "ingress/infer_message.h"
#include "ingress/request_builder.h"
#include "ingress/rest_json.h"

namespace mesh::ingress {

// How the client wants its outputs: as JSON, or as bytes behind it.
struct OutputForms {
  bool binary_default = false;
  std::vector<std::pair<std::string, bool>> binary;  // of the outputs that it named

  [[nodiscard]] bool IsBinary(std::string_view output) const;
};

class RestInferReader {
 public:
  // `model` is for messages. The views that Read leaves in `message` are into the bytes, the reader and the extras.
  RestInferReader(std::string_view model, InferMessage* message, RequestExtras* extras, OutputForms* forms)
      : model_(model), message_(*message), extras_(*extras), forms_(*forms) {}

  // Fills the cleared `message`. Codes and messages are those of `tritonserver`.
  Status Read(std::string_view json, std::string_view binary);

 private:
  void ReadId();
  void ReadParameters();
  void ReadParameter(std::string_view key, const Json& value);
  void ReadInputs();
  void ReadInput(const Json& input);
  void ReadShape(const Json& input);
  void ReadBinary(std::string_view input, std::uint64_t size);
  void ReadValues(const Json& input, const TensorView& tensor);
  void ReadOutputs();
  void ReadOutput(const Json& output);
  void AddSharedMemory(const Json& parameters);

  const std::string_view model_;
  InferMessage& message_;
  RequestExtras& extras_;
  OutputForms& forms_;
  std::string_view binary_;  // that no input has taken yet
  rapidjson::Document document_;
};

// A value as the parameter of a request; INVALID_ARGUMENT for objects, arrays and null.
Result<ParameterView> ToParameter(std::string_view key, const Json& value);

}  // namespace mesh::ingress
