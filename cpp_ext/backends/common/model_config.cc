#include "backends/common/model_config.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "backends/common/datatypes.h"

namespace mesh::backend {
namespace {

using Json = nlohmann::json;

// 64-bit numbers stand as numbers or, in protobuf's own JSON, as strings.
std::int64_t Integer(const Json& value) {
  return value.is_string() ? std::stoll(value.get<std::string>()) : value.get<std::int64_t>();
}

std::vector<std::int64_t> Integers(const Json& list) {
  std::vector<std::int64_t> numbers;
  for (const Json& item : list) {
    numbers.push_back(Integer(item));
  }
  return numbers;
}

TensorConfig ParseTensor(const Json& json) {
  TensorConfig tensor;
  tensor.name = json.value("name", "");
  tensor.datatype = DataTypeFromName(json.value("data_type", ""));
  if (const auto dims = json.find("dims"); dims != json.end()) {
    tensor.dims = Integers(*dims);
  }
  if (const auto reshape = json.find("reshape"); reshape != json.end()) {
    tensor.has_reshape = true;
    tensor.reshape = Integers(reshape->value("shape", Json::array()));
  }
  tensor.optional = json.value("optional", false);
  tensor.ragged = json.value("allow_ragged_batch", false);
  return tensor;
}

std::vector<TensorConfig> ParseTensors(const Json& config, const char* key) {
  std::vector<TensorConfig> tensors;
  if (const auto list = config.find(key); list != config.end()) {
    for (const Json& item : *list) {
      tensors.push_back(ParseTensor(item));
    }
  }
  return tensors;
}

// A control's datatype is that of its pair of values, or said outright (correlation ids).
TRITONSERVER_DataType ControlType(const Json& control) {
  const std::pair<const char*, TRITONSERVER_DataType> pairs[] = {{"int32_false_true", TRITONSERVER_TYPE_INT32},
                                                                 {"fp32_false_true", TRITONSERVER_TYPE_FP32},
                                                                 {"bool_false_true", TRITONSERVER_TYPE_BOOL}};
  for (const auto& [key, datatype] : pairs) {
    if (const auto values = control.find(key); values != control.end() && !values->empty()) {
      return datatype;
    }
  }
  return DataTypeFromName(control.value("data_type", ""));
}

void ParseSequences(const Json& batching, ModelConfig* config) {
  for (const Json& item : batching.value("control_input", Json::array())) {
    for (const Json& control : item.value("control", Json::array())) {
      TensorConfig tensor;
      tensor.name = item.value("name", "");
      tensor.datatype = ControlType(control);
      tensor.dims = {1};
      config->sequence_inputs.push_back(std::move(tensor));
    }
  }
  for (const Json& item : batching.value("state", Json::array())) {
    TensorConfig tensor = ParseTensor(item);
    tensor.name = item.value("input_name", "");
    config->sequence_inputs.push_back(tensor);
    tensor.name = item.value("output_name", "");
    config->state_outputs.push_back(std::move(tensor));
  }
}

std::vector<TensorConfig> Joined(std::vector<TensorConfig> tensors, const std::vector<TensorConfig>& more) {
  for (const TensorConfig& tensor : more) {
    const auto same = [&](const TensorConfig& other) { return other.name == tensor.name; };
    if (std::none_of(tensors.begin(), tensors.end(), same)) {
      tensors.push_back(tensor);
    }
  }
  return tensors;
}

std::int64_t CountInstances(const Json& config) {
  std::int64_t instances = 0;
  for (const Json& group : config.value("instance_group", Json::array())) {
    const auto count = group.find("count");
    instances += count == group.end() ? 1 : std::max<std::int64_t>(1, Integer(*count));
  }
  return std::max<std::int64_t>(1, instances);
}

}  // namespace

std::vector<TensorConfig> AllInputs(const ModelConfig& config) { return Joined(config.inputs, config.sequence_inputs); }

std::vector<TensorConfig> AllOutputs(const ModelConfig& config) { return Joined(config.outputs, config.state_outputs); }

Result<ModelConfig> ParseModelConfig(const std::string& json) {
  try {
    const Json document = Json::parse(json);
    ModelConfig config;
    config.name = document.value("name", "");
    if (const auto size = document.find("max_batch_size"); size != document.end()) {
      config.max_batch_size = Integer(*size);
    }
    config.inputs = ParseTensors(document, "input");
    config.outputs = ParseTensors(document, "output");
    ParseSequences(document.value("sequence_batching", Json::object()), &config);
    config.default_model_filename = document.value("default_model_filename", "");
    config.instances = CountInstances(document);
    const Json parameters = document.value("parameters", Json::object());
    for (const auto& [key, value] : parameters.items()) {
      config.parameters[key] = value.value("string_value", "");
    }
    for (const char* key : {"dynamic_batching", "sequence_batching", "ensemble_scheduling"}) {
      config.has_scheduler = config.has_scheduler || document.contains(key);
    }
    return config;
  } catch (const std::exception& error) {
    return Status(Code::kInvalidArgument, std::string("the model configuration cannot be read: ") + error.what());
  }
}

Result<std::int64_t> IntegerParameter(const ModelConfig& config, const std::string& key, std::int64_t fallback,
                                      std::int64_t least, std::int64_t most) {
  const auto found = config.parameters.find(key);
  if (found == config.parameters.end()) {
    return fallback;
  }
  const std::string& text = found->second;
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < least || number > most) {
    return Status(Code::kInvalidArgument, "model '" + config.name + "': parameter '" + key + "' is '" + text +
                                              "', it must be a whole number from " + std::to_string(least) + " to " +
                                              std::to_string(most));
  }
  return number;
}

}  // namespace mesh::backend
