#include <algorithm>
#include <nlohmann/json.hpp>

#include "backends/common/datatypes.h"
#include "backends/openvino/signature.h"

namespace mesh::backend {
namespace {

using Json = nlohmann::json;

bool Lacks(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->empty();
}

// Triton wants at least one dim: a scalar is configured as [1] and reshaped to [].
void PutDims(const TensorSignature& tensor, bool batched, Json* json) {
  std::vector<std::int64_t> dims = tensor.dims;
  if (batched && !dims.empty()) {
    dims.erase(dims.begin());
  }
  if (dims.empty()) {
    (*json)["dims"] = {1};
    (*json)["reshape"] = {{"shape", Json::array()}};
  } else {
    (*json)["dims"] = dims;
  }
}

bool FillTensor(const TensorSignature& tensor, bool batched, Json* json) {
  bool changed = false;
  const std::string type = json->value("data_type", "");
  if (DataTypeFromName(type) == TRITONSERVER_TYPE_INVALID && tensor.datatype != TRITONSERVER_TYPE_INVALID) {
    (*json)["data_type"] = ConfigDataTypeName(tensor.datatype);
    changed = true;
  }
  if (Lacks(*json, "dims") && tensor.rank_known) {
    PutDims(tensor, batched, json);
    changed = true;
  }
  return changed;
}

bool FillTensors(const std::vector<TensorSignature>& tensors, bool batched, const char* key, Json* config) {
  bool changed = false;
  if (Lacks(*config, key)) {
    Json list = Json::array();
    for (const TensorSignature& tensor : tensors) {
      Json item = {{"name", tensor.name()}};
      FillTensor(tensor, batched, &item);
      list.push_back(std::move(item));
    }
    (*config)[key] = std::move(list);
    return !tensors.empty();
  }
  for (Json& item : (*config)[key]) {
    for (const TensorSignature& tensor : tensors) {
      if (tensor.Answers(item.value("name", ""))) {
        changed = FillTensor(tensor, batched, &item) || changed;
      }
    }
  }
  return changed;
}

// Those that clients send or get: the tensors of sequences are Triton's own.
std::vector<TensorSignature> Without(const std::vector<TensorSignature>& tensors,
                                     const std::vector<TensorConfig>& left_out) {
  std::vector<TensorSignature> rest;
  for (const TensorSignature& tensor : tensors) {
    const auto named = [&](const TensorConfig& config) { return tensor.Answers(config.name); };
    if (std::none_of(left_out.begin(), left_out.end(), named)) {
      rest.push_back(tensor);
    }
  }
  return rest;
}

// An output that is a state's next value is shown to clients only where the configuration names it, or under another
// name that the file gives to the same tensor. Each name stands once, even where several results show one tensor.
std::vector<TensorSignature> ShownOutputs(const std::vector<TensorSignature>& tensors, const ModelConfig& config) {
  if (!config.outputs.empty()) {
    return tensors;
  }
  std::vector<TensorSignature> shown;
  for (TensorSignature tensor : tensors) {
    const auto hidden = [&](const std::string& name) {
      const auto is_state = [&](const TensorConfig& state) { return state.name == name; };
      return std::any_of(config.state_outputs.begin(), config.state_outputs.end(), is_state);
    };
    tensor.names.erase(std::remove_if(tensor.names.begin(), tensor.names.end(), hidden), tensor.names.end());
    const auto listed = [&](const TensorSignature& other) { return other.name() == tensor.name(); };
    if (!tensor.names.empty() && std::none_of(shown.begin(), shown.end(), listed)) {
      shown.push_back(std::move(tensor));
    }
  }
  return shown;
}

Status CheckServable(const std::string& who, const ModelSignature& model) {
  for (const auto* tensors : {&model.inputs, &model.outputs}) {
    for (const TensorSignature& tensor : *tensors) {
      const std::string what = who + (tensors == &model.inputs ? "input '" : "output '") + tensor.name() + "' ";
      if (tensor.datatype == TRITONSERVER_TYPE_INVALID) {
        return {Code::kInvalidArgument, what + "has datatype " + tensor.file_type + ", which cannot be served"};
      }
      if (!tensor.rank_known) {
        return {Code::kInvalidArgument, what + "has no fixed number of dims; give its dims in config.pbtxt"};
      }
    }
  }
  return {};
}

}  // namespace

Result<std::string> Complete(const std::string& config_json, const ModelSignature& file,
                             std::int64_t default_max_batch_size) {
  Result<ModelConfig> parsed = ParseModelConfig(config_json);
  if (!parsed.ok()) {
    return parsed.status();
  }
  const ModelConfig& config = parsed.value();
  const ModelSignature model{Without(file.inputs, config.sequence_inputs), ShownOutputs(file.outputs, config)};
  Json json = Json::parse(config_json);
  bool changed = false;
  const bool names_nothing = config.inputs.empty() && config.outputs.empty();
  if (names_nothing) {
    if (Status status = CheckServable("model '" + config.name + "': ", model); !status.ok()) {
      return status;
    }
  }
  std::int64_t max_batch_size = config.max_batch_size;
  if (names_nothing && max_batch_size == 0 && default_max_batch_size > 0 && CanBatch(file)) {  // the states too
    max_batch_size = default_max_batch_size;
    json["max_batch_size"] = max_batch_size;
    changed = true;
  }
  if (names_nothing && max_batch_size > 1 && !config.has_scheduler) {
    json["dynamic_batching"] = Json::object();
    changed = true;
  }
  changed = FillTensors(model.inputs, max_batch_size > 0, "input", &json) || changed;
  changed = FillTensors(model.outputs, max_batch_size > 0, "output", &json) || changed;
  return changed ? json.dump() : std::string();
}

}  // namespace mesh::backend
