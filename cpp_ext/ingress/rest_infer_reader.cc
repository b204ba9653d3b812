#include "ingress/rest_infer_reader.h"

#include <algorithm>
#include <limits>

#include "ingress/rest_tensor.h"
#include "triton/datatype.h"

namespace mesh::ingress {
namespace {

using Kind = ParameterView::Kind;

// As many as gRPC requests may have, and for the same reason: they are searched one by one.
constexpr std::size_t kMaxTensors = 16UL * 1024;
constexpr std::size_t kMaxParameters = 1024;

[[noreturn]] void Refuse(std::string why) { throw JsonFault{{Code::kInvalidArgument, std::move(why)}}; }

void CheckCount(std::size_t count, std::size_t limit, const char* what) {
  if (count > limit) Refuse("a request has more than " + std::to_string(limit) + " " + what + ", which is the limit");
}

// Triton's C API would cut the text there.
std::string_view AsName(const Json& value, const char* what) {
  const std::string_view text = AsString(value);
  if (text.find('\0') != std::string_view::npos) Refuse(std::string("the ") + what + " holds a NUL character");
  return text;
}

std::string_view MemberAsName(const Json& object, const char* member, const char* what) {
  return Named(what, [&] { return AsName(GetMember(object, member), member); });
}

ParameterView TextParameter(std::string_view key, std::string_view value) {
  ParameterView parameter;
  parameter.key = key;
  parameter.kind = Kind::kString;
  parameter.string_value = value;
  return parameter;
}

ParameterView NumberParameter(std::string_view key, std::uint64_t value) {
  ParameterView parameter;
  parameter.key = key;
  parameter.kind = Kind::kInt64;
  parameter.int64_value = static_cast<std::int64_t>(value);
  return parameter;
}

ParameterView FlagParameter(std::string_view key, bool value) {
  ParameterView parameter;
  parameter.key = key;
  parameter.kind = Kind::kBool;
  parameter.bool_value = value;
  return parameter;
}

// A fault names the key.
template <typename As>
auto ParseNamed(std::string_view key, const Json& value, As as) {
  try {
    return as(value);
  } catch (const JsonFault& fault) {
    throw JsonFault{{fault.status.code(), "Unable to parse '" + std::string(key) + "': " + fault.status.message()}};
  }
}

// Of `object`, the member `parameters` and therein `key`.
const Json* FindParameterJson(const Json& object, const char* key) {
  const Json* parameters = FindMember(object, "parameters");
  return parameters == nullptr ? nullptr : FindMember(*parameters, key);
}

void CheckOneSource(const Json& input) {
  const bool data = FindMember(input, "data") != nullptr;
  const bool binary = FindParameterJson(input, "binary_data_size") != nullptr;
  const bool shared = FindParameterJson(input, "shared_memory_region") != nullptr;
  if (static_cast<int>(data) + static_cast<int>(binary) + static_cast<int>(shared) == 1) return;
  std::string set;
  if (data) set += " 'data'";
  if (binary) set += " 'binary_data_size'";
  if (shared) set += " 'shared_memory_region'";
  Refuse(
      "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
      "'shared_memory_region' in 'parameters'. But" +
      (set.empty() ? std::string(" no field is set") : " set" + set));
}

void CheckOneSink(const Json& output) {
  if (FindParameterJson(output, "shared_memory_region") == nullptr) return;
  if (FindParameterJson(output, "classification") != nullptr) {
    Refuse("Output can't set both 'shared_memory_region' and 'classification'");
  }
  const Json* binary = FindParameterJson(output, "binary_data");
  if (binary != nullptr && Named("Unable to set 'binary_data'", [&] { return AsBool(*binary); })) {
    Refuse("Output can't set both 'shared_memory_region' and 'binary_data'");
  }
}

}  // namespace

bool OutputForms::IsBinary(std::string_view output) const {
  const auto found =
      std::find_if(binary.begin(), binary.end(), [&](const auto& entry) { return entry.first == output; });
  return found == binary.end() ? binary_default : found->second;
}

Result<ParameterView> ToParameter(std::string_view key, const Json& value) {
  ParameterView parameter;
  parameter.key = key;
  if (value.IsString()) {
    parameter.kind = Kind::kString;
    parameter.string_value = {value.GetString(), value.GetStringLength()};
  } else if (value.IsInt64()) {
    parameter.kind = Kind::kInt64;
    parameter.int64_value = value.GetInt64();
  } else if (value.IsBool()) {
    parameter.kind = Kind::kBool;
    parameter.bool_value = value.GetBool();
  } else if (value.IsNumber()) {
    parameter.kind = Kind::kDouble;
    parameter.double_value = value.GetDouble();
  } else {
    return Status(Code::kInvalidArgument, "parameter '" + std::string(key) +
                                              "' has invalid type. It should be either 'int', 'bool', or 'string'.");
  }
  return parameter;
}

Status RestInferReader::Read(std::string_view json, std::string_view binary) {
  binary_ = binary;
  message_.model_name = model_;
  return ReadGuarded([&] {
    document_ = ParseJson(json);
    ReadId();
    ReadParameters();
    ReadInputs();
    ReadOutputs();
  });
}

void RestInferReader::ReadId() {
  const Json* id = FindMember(document_, "id");
  if (id != nullptr) message_.id = Named("Unable to parse 'id'", [&] { return AsName(*id, "id"); });
}

void RestInferReader::ReadParameters() {
  const Json* parameters = FindMember(document_, "parameters");
  if (parameters == nullptr) return;
  if (!parameters->IsObject()) {
    throw JsonFault{{Code::kInternal, "failed to get request params.: attempt to get members for non-object"}};
  }
  CheckCount(parameters->MemberCount(), kMaxParameters, "parameters");
  for (const auto& member : parameters->GetObject()) {
    ReadParameter(AsName(member.name, "parameter"), member.value);
  }
}

void RestInferReader::ReadParameter(std::string_view key, const Json& value) {
  const auto add = [this](const ParameterView& parameter) { message_.parameters.push_back(parameter); };
  if (key == "sequence_id") {
    if (value.IsUint64()) return add(NumberParameter("sequence_id", value.GetUint64()));
    return add(TextParameter("sequence_id", ParseNamed(key, value, AsString)));
  }
  if (key == "sequence_start") return add(FlagParameter("sequence_start", ParseNamed(key, value, AsBool)));
  if (key == "sequence_end") return add(FlagParameter("sequence_end", ParseNamed(key, value, AsBool)));
  if (key == "priority") {
    ParameterView parameter = NumberParameter("priority", 0);
    parameter.kind = Kind::kUint64;
    parameter.uint64_value = ParseNamed(key, value, AsUint);
    return add(parameter);
  }
  if (key == "timeout") {
    constexpr auto kLongest = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    return add(NumberParameter("timeout", std::min(ParseNamed(key, value, AsUint), kLongest)));
  }
  if (key == "binary_data_output") {
    forms_.binary_default = ParseNamed(key, value, AsBool);
    return;
  }
  if (key.substr(0, 7) == "triton_") {
    Refuse("parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified.");
  }
  Result<ParameterView> parameter = ToParameter(key, value);
  if (!parameter.ok()) throw JsonFault{parameter.status()};
  add(parameter.value());
}

void RestInferReader::ReadInputs() {
  const Json& inputs =
      Named("Unable to parse 'inputs'", [&]() -> const Json& { return AsArray(GetMember(document_, "inputs")); });
  CheckCount(inputs.Size(), kMaxTensors, "inputs");
  extras_.typed_contents.reserve(inputs.Size());  // views are taken of its elements
  for (const Json& input : inputs.GetArray()) ReadInput(input);
  if (!binary_.empty()) Refuse("unexpected additional input data for model '" + std::string(model_) + "'");
}

void RestInferReader::ReadInput(const Json& input) {
  CheckOneSource(input);
  TensorView tensor;
  tensor.name = MemberAsName(input, "name", "Unable to parse 'name'");
  tensor.datatype = MemberAsName(input, "datatype", "Unable to parse 'datatype'");
  tensor.shape.begin = static_cast<std::uint32_t>(message_.dims.size());
  ReadShape(input);
  tensor.shape.count = static_cast<std::uint32_t>(message_.dims.size()) - tensor.shape.begin;
  tensor.parameters.begin = static_cast<std::uint32_t>(message_.tensor_parameters.size());
  if (const Json* size = FindParameterJson(input, "binary_data_size"); size != nullptr) {
    ReadBinary(tensor.name, ParseNamed("binary_data_size", *size, AsUint));
  } else if (FindParameterJson(input, "shared_memory_region") != nullptr) {
    AddSharedMemory(*FindMember(input, "parameters"));
  } else {
    ReadValues(input, tensor);
  }
  tensor.parameters.count = static_cast<std::uint32_t>(message_.tensor_parameters.size()) - tensor.parameters.begin;
  message_.inputs.push_back(tensor);
}

void RestInferReader::ReadShape(const Json& input) {
  Named("Unable to parse 'shape'", [&] {
    for (const Json& dim : AsArray(GetMember(input, "shape")).GetArray()) {
      message_.dims.push_back(static_cast<std::int64_t>(AsUint(dim)));
    }
  });
}

void RestInferReader::ReadBinary(std::string_view input, std::uint64_t size) {
  if (size > binary_.size()) {
    Refuse("unexpected size for input '" + std::string(input) + "', expecting " +
           std::to_string(size - binary_.size()) + " additional bytes for model '" + std::string(model_) + "'");
  }
  message_.raw_inputs.push_back(binary_.substr(0, size));
  binary_.remove_prefix(size);
}

void RestInferReader::ReadValues(const Json& input, const TensorView& tensor) {
  const auto elements = triton::ElementCount(message_.dims.data() + tensor.shape.begin, tensor.shape.count);
  // Nothing is wanted; and what cannot be counted, or has no dimension, is refused when the request is built.
  if (elements.value_or(0) == 0 || tensor.shape.count == 0) {
    message_.raw_inputs.emplace_back();
    return;
  }
  const Json& data =
      Named("Unable to parse 'data'", [&]() -> const Json& { return AsArray(GetMember(input, "data")); });
  extras_.typed_contents.push_back(JsonToTensor(data, triton::ParseDataType(tensor.datatype), tensor.name, *elements));
  message_.raw_inputs.emplace_back(extras_.typed_contents.back());
}

void RestInferReader::AddSharedMemory(const Json& parameters) {
  const Json* region = FindMember(parameters, "shared_memory_region");
  if (region == nullptr) return;
  message_.tensor_parameters.push_back(
      TextParameter("shared_memory_region", ParseNamed("shared_memory_region", *region, AsString)));
  for (const char* key : {"shared_memory_offset", "shared_memory_byte_size"}) {
    const Json* number = FindMember(parameters, key);
    const std::uint64_t value = number == nullptr ? 0 : ParseNamed(key, *number, AsUint);
    message_.tensor_parameters.push_back(NumberParameter(key, value));
  }
}

void RestInferReader::ReadOutputs() {
  if (FindMember(document_, "outputs") == nullptr) return;
  const Json& outputs =
      Named("Unable to parse 'outputs'", [&]() -> const Json& { return AsArray(GetMember(document_, "outputs")); });
  CheckCount(outputs.Size(), kMaxTensors, "outputs");
  for (const Json& output : outputs.GetArray()) ReadOutput(output);
}

void RestInferReader::ReadOutput(const Json& output) {
  CheckOneSink(output);
  TensorView tensor;
  tensor.name = MemberAsName(output, "name", "Unable to parse 'name'");
  tensor.parameters.begin = static_cast<std::uint32_t>(message_.tensor_parameters.size());
  if (const Json* classes = FindParameterJson(output, "classification"); classes != nullptr) {
    const std::uint64_t count = Named("Unable to set 'classification'", [&] { return AsUint(*classes); });
    constexpr std::uint64_t kMost = std::numeric_limits<std::uint32_t>::max();
    if (count > 0) message_.tensor_parameters.push_back(NumberParameter("classification", std::min(count, kMost)));
  }
  if (const Json* parameters = FindMember(output, "parameters"); parameters != nullptr) AddSharedMemory(*parameters);
  tensor.parameters.count = static_cast<std::uint32_t>(message_.tensor_parameters.size()) - tensor.parameters.begin;
  const Json* binary = FindParameterJson(output, "binary_data");
  forms_.binary.emplace_back(std::string(tensor.name), binary != nullptr && ParseNamed("binary_data", *binary, AsBool));
  message_.outputs.push_back(tensor);
}

}  // namespace mesh::ingress
