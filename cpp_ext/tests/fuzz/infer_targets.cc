#include <optional>
#include <protozero/pbf_reader.hpp>

#include "fuzz/target.h"
#include "ingress/contents.h"
#include "ingress/control_tables.h"
#include "ingress/infer_message.h"
#include "ingress/json_to_proto.h"
#include "ingress/rest_infer_reader.h"
#include "ingress/rest_tensor.h"
#include "triton/datatype.h"

namespace mesh::fuzz {
namespace {

using ingress::InferMessage;
using ingress::ParameterView;
using ingress::Range;
using ingress::TensorView;

template <typename T>
void RequireRange(Range range, const std::vector<T>& list) {
  Require(std::size_t{range.begin} + range.count <= list.size(), "a range beyond its list");
}

void RequireParameters(const std::vector<ParameterView>& parameters, std::string_view bytes) {
  for (const ParameterView& parameter : parameters) {
    RequireInside(parameter.key, bytes, "a parameter's key is elsewhere");
    RequireInside(parameter.string_value, bytes, "a parameter's value is elsewhere");
    Require(parameter.key.find('\0') == std::string_view::npos, "a NUL in a parameter's key");
  }
}

void RequireInput(const TensorView& input, const InferMessage& message, std::string_view bytes) {
  RequireRange(input.shape, message.dims);
  RequireRange(input.parameters, message.tensor_parameters);
  RequireInside(input.name, bytes, "an input's name is elsewhere");
  RequireInside(input.contents, bytes, "an input's contents are elsewhere");
  if (!input.has_contents) return;
  const triton::DataType type = triton::ParseDataType(input.datatype);
  const Result<std::string> values = ingress::ContentsToBytes(input.contents, type, std::string(input.name), "m");
  const std::size_t size = triton::DataTypeSize(type);
  if (values.ok() && size > 0) Require(values.value().size() % size == 0, "half an element");
}

// Every field of a message, without a look into it.
void RequireMessage(const std::string& encoded) {
  protozero::pbf_reader reader(encoded);
  while (reader.next()) reader.skip();
}

}  // namespace

void InferRequest(std::string_view input) {
  static_cast<void>(ingress::ParseModelMessage(input));
  static_cast<void>(ingress::ParseIndexMessage(input));
  static_cast<void>(ingress::ParseEmptyMessage(input));
  InferMessage message;
  if (!ingress::ParseInferMessage(input, &message).ok()) return;
  RequireInside(message.model_name, input, "the model's name is elsewhere");
  RequireInside(message.id, input, "the id is elsewhere");
  RequireParameters(message.parameters, input);
  RequireParameters(message.tensor_parameters, input);
  for (const TensorView& tensor : message.inputs) RequireInput(tensor, message, input);
  for (const TensorView& tensor : message.outputs) RequireRange(tensor.parameters, message.tensor_parameters);
  for (const std::string_view raw : message.raw_inputs) RequireInside(raw, input, "raw contents are elsewhere");
}

void RestInfer(std::string_view input) {
  if (input.size() < 2) return;
  const std::size_t wanted = static_cast<unsigned char>(input[0]) | static_cast<unsigned char>(input[1]) << 8;
  const std::string_view body = input.substr(2);
  const std::string_view json = body.substr(0, wanted);
  const std::string_view binary = body.substr(json.size());
  InferMessage message;
  ingress::RequestExtras extras;
  ingress::OutputForms forms;
  ingress::RestInferReader reader("m", &message, &extras, &forms);
  if (!reader.Read(json, binary).ok()) return;
  Require(message.raw_inputs.size() <= message.inputs.size(), "more contents than inputs");
  for (const TensorView& tensor : message.inputs) {
    RequireRange(tensor.shape, message.dims);
    RequireRange(tensor.parameters, message.tensor_parameters);
  }
  for (const TensorView& tensor : message.outputs) {
    RequireRange(tensor.parameters, message.tensor_parameters);
    static_cast<void>(forms.IsBinary(tensor.name));
  }
  std::size_t taken = 0;
  for (const std::string_view raw : message.raw_inputs) {
    if (!raw.empty() && raw.data() >= binary.data() && raw.data() < binary.data() + binary.size()) taken += raw.size();
  }
  Require(taken == binary.size(), "binary data that no input has");
}

void JsonAnswer(std::string_view input) {
  if (input.empty()) return;
  const ingress::MessageTable* const tables[] = {&ingress::kModelConfigTable, &ingress::kServerMetadataTable,
                                                 &ingress::kModelMetadataTable, &ingress::kModelStatisticsTable};
  const auto choice = static_cast<unsigned char>(input[0]);
  const std::string_view json = input.substr(1);
  const Result<std::string> encoded = choice % 5 == 4 ? ingress::JsonArrayToProto(json, 1, ingress::kModelIndexTable)
                                                      : ingress::JsonToProto(json, *tables[choice % 5]);
  if (encoded.ok()) RequireMessage(encoded.value());
}

}  // namespace mesh::fuzz
