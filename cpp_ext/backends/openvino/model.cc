#include "backends/openvino/model.h"

#include <algorithm>
#include <set>
#include <utility>

#include "backends/common/api.h"
#include "backends/common/datatypes.h"
#include "backends/common/errors.h"
#include "backends/common/model.h"

namespace mesh::backend {
namespace {

using Ports = std::vector<ov::Output<const ov::Node>>;

std::vector<std::int64_t> Dims(const ov::PartialShape& shape) {
  std::vector<std::int64_t> dims;
  if (shape.rank().is_static()) {
    for (const ov::Dimension& dim : shape) {
      dims.push_back(dim.is_static() ? dim.get_length() : -1);
    }
  }
  return dims;
}

TensorSignature SignatureOf(const ov::Output<const ov::Node>& port) {
  TensorSignature tensor;
  const auto& names = port.get_names();
  tensor.names.assign(names.begin(), names.end());
  std::sort(tensor.names.begin(), tensor.names.end());
  if (tensor.names.empty()) {
    tensor.names.push_back(port.get_node()->get_friendly_name());
  }
  tensor.datatype = TritonType(port.get_element_type());
  tensor.file_type = port.get_element_type().get_type_name();
  tensor.rank_known = port.get_partial_shape().rank().is_static();
  tensor.dims = Dims(port.get_partial_shape());
  return tensor;
}

ModelSignature SignatureOf(const ov::Model& model) {
  ModelSignature signature;
  for (const auto& port : model.inputs()) {
    signature.inputs.push_back(SignatureOf(port));
  }
  for (const auto& port : model.outputs()) {
    signature.outputs.push_back(SignatureOf(port));
  }
  return signature;
}

// One port per tensor of the configuration, in the order of the compiled model. One tensor of the model may have
// several of them, one after another: an accumulator's result is often an output and a state's next value. And where
// several results show one tensor, each of them has all its names: the first is taken.
std::vector<Port> MatchPorts(const std::vector<TensorConfig>& tensors, const Ports& ports) {
  std::vector<Port> matched;
  for (std::size_t index = 0; index < ports.size(); ++index) {
    const TensorSignature signature = SignatureOf(ports[index]);
    for (const TensorConfig& tensor : tensors) {
      const auto same_name = [&](const Port& port) { return port.name == tensor.name; };
      if (!signature.Answers(tensor.name) || std::any_of(matched.begin(), matched.end(), same_name)) {
        continue;
      }
      const bool alone = matched.empty() || matched.back().index != index;
      if (!alone) {
        matched.back().alone = false;
      }
      matched.push_back({tensor.name, index, signature.datatype, ports[index].get_element_type(), signature.rank_known,
                         signature.dims, alone});
    }
  }
  return matched;
}

Result<ModelConfig> CurrentConfig(TRITONBACKEND_Model* handle) {
  Result<std::string> json = ModelConfigJson(handle);
  if (!json.ok()) {
    return json.status();
  }
  return ParseModelConfig(json.value());
}

Result<std::string> VersionFolder(TRITONBACKEND_Model* handle) {
  TRITONBACKEND_ArtifactType type = TRITONBACKEND_ARTIFACT_FILESYSTEM;
  const char* folder = nullptr;
  std::uint64_t version = 0;
  MESH_RETURN_IF_ERROR(FromTriton(api().TRITONBACKEND_ModelRepository(handle, &type, &folder)));
  MESH_RETURN_IF_ERROR(FromTriton(api().TRITONBACKEND_ModelVersion(handle, &version)));
  return std::string(folder) + "/" + std::to_string(version);
}

Status CompleteConfig(TRITONBACKEND_Model* handle, const ModelSignature& signature, const Properties& settings) {
  bool wanted = false;
  MESH_RETURN_IF_ERROR(FromTriton(api().TRITONBACKEND_ModelAutoCompleteConfig(handle, &wanted)));
  if (!wanted) {
    return {};
  }
  Result<std::string> json = ModelConfigJson(handle);
  if (!json.ok()) {
    return json.status();
  }
  Result<std::string> completed = Complete(json.value(), signature, DefaultMaxBatchSize(settings));
  if (!completed.ok() || completed.value().empty()) {
    return completed.status();
  }
  const std::string& text = completed.value();
  TRITONSERVER_Message* message = nullptr;
  MESH_RETURN_IF_ERROR(FromTriton(api().TRITONSERVER_MessageNewFromSerializedJson(&message, text.data(), text.size())));
  Status status = FromTriton(api().TRITONBACKEND_ModelSetConfig(handle, 1, message));
  LogFailure("cannot delete a message", api().TRITONSERVER_MessageDelete(message));
  return status;
}

Result<std::shared_ptr<ov::Model>> Read(ov::Core& core, const ModelConfig& config, const std::string& file) {
  try {
    return core.read_model(file);
  } catch (const std::exception& error) {
    return Status(Code::kInvalidArgument,
                  "model '" + config.name + "': " + file + " cannot be read: " + WithoutTrace(error.what()));
  }
}

Result<ov::CompiledModel> Compile(ov::Core& core, const ModelConfig& config, const std::shared_ptr<ov::Model>& model,
                                  const Properties& properties) {
  try {
    return core.compile_model(model, "CPU", ov::AnyMap(properties.begin(), properties.end()));
  } catch (const std::exception& error) {
    return Status(Code::kInvalidArgument,
                  "model '" + config.name + "': OpenVINO cannot compile it: " + WithoutTrace(error.what()));
  }
}

}  // namespace

TRITONSERVER_DataType TritonType(const ov::element::Type& type) {
  switch (static_cast<ov::element::Type_t>(type)) {
    case ov::element::Type_t::boolean: return TRITONSERVER_TYPE_BOOL;
    case ov::element::Type_t::bf16: return TRITONSERVER_TYPE_BF16;
    case ov::element::Type_t::f16: return TRITONSERVER_TYPE_FP16;
    case ov::element::Type_t::f32: return TRITONSERVER_TYPE_FP32;
    case ov::element::Type_t::f64: return TRITONSERVER_TYPE_FP64;
    case ov::element::Type_t::i8: return TRITONSERVER_TYPE_INT8;
    case ov::element::Type_t::i16: return TRITONSERVER_TYPE_INT16;
    case ov::element::Type_t::i32: return TRITONSERVER_TYPE_INT32;
    case ov::element::Type_t::i64: return TRITONSERVER_TYPE_INT64;
    case ov::element::Type_t::u8: return TRITONSERVER_TYPE_UINT8;
    case ov::element::Type_t::u16: return TRITONSERVER_TYPE_UINT16;
    case ov::element::Type_t::u32: return TRITONSERVER_TYPE_UINT32;
    case ov::element::Type_t::u64: return TRITONSERVER_TYPE_UINT64;
    case ov::element::Type_t::string: return TRITONSERVER_TYPE_BYTES;
    default: return TRITONSERVER_TYPE_INVALID;
  }
}

Result<std::unique_ptr<OpenVinoModel>> OpenVinoModel::Load(TRITONBACKEND_Model* handle, OpenVinoBackend& backend) {
  Result<ModelConfig> config = CurrentConfig(handle);
  if (!config.ok()) {
    return config.status();
  }
  Result<std::string> folder = VersionFolder(handle);
  if (!folder.ok()) {
    return folder.status();
  }
  Result<std::string> file = FindModelFile(config.value(), folder.value());
  if (!file.ok()) {
    return file.status();
  }
  Result<std::shared_ptr<ov::Model>> source = Read(backend.core, config.value(), file.value());
  if (!source.ok()) {
    return source.status();
  }
  const ModelSignature signature = SignatureOf(*source.value());
  MESH_RETURN_IF_ERROR(CompleteConfig(handle, signature, backend.settings));
  config = CurrentConfig(handle);
  if (!config.ok()) {
    return config.status();
  }
  MESH_RETURN_IF_ERROR(Validate(config.value(), signature));
  std::unique_ptr<OpenVinoModel> model(new OpenVinoModel(std::move(config).value()));
  MESH_RETURN_IF_ERROR(model->Build(source.value(), backend));
  Log(TRITONSERVER_LOG_INFO, "openvino: compiled model '" + model->config_.name + "' from " + file.value());
  return model;
}

Status OpenVinoModel::Build(const std::shared_ptr<ov::Model>& source, OpenVinoBackend& backend) {
  Result<Properties> properties = CompileProperties(config_, backend.settings);
  if (!properties.ok()) {
    return properties.status();
  }
  Result<ov::CompiledModel> compiled = Compile(backend.core, config_, source, properties.value());
  if (!compiled.ok()) {
    return compiled.status();
  }
  compiled_ = std::move(compiled).value();
  inputs_ = MatchPorts(AllInputs(config_), compiled_.inputs());
  outputs_ = MatchPorts(AllOutputs(config_), compiled_.outputs());
  for (std::size_t index = 0; index < outputs_.size(); ++index) {
    const auto is_state = [&](const TensorConfig& state) { return state.name == outputs_[index].name; };
    if (std::any_of(config_.state_outputs.begin(), config_.state_outputs.end(), is_state)) {
      states_.push_back(index);
    }
  }
  return Guard(*source);
}

// Tries the biggest batch on the graph, and keeps the guard for models whose other dimensions may change too.
Status OpenVinoModel::Guard(const ov::Model& source) {
  auto guard = std::make_unique<ShapeGuard>(source);
  std::vector<ov::PartialShape> shapes;
  bool needed = false;
  for (const auto& port : source.inputs()) {
    ov::PartialShape shape = port.get_partial_shape();
    if (batches() && shape.rank().is_static() && shape.size() > 0) {
      shape[0] = config_.max_batch_size;
    }
    needed = needed || shape.is_dynamic();
    shapes.push_back(shape);
  }
  std::vector<ov::PartialShape> outputs;
  const Status status = guard->Infer(shapes, &outputs);
  if (!status.ok()) {
    return {status.code(), "model '" + config_.name + "': " + status.message()};
  }
  for (const Port& port : outputs_) {
    const ov::PartialShape& shape = outputs[port.index];
    if (batches() && shape.rank().is_static() && (shape.size() == 0 || !shape[0].compatible(config_.max_batch_size))) {
      return {Code::kInvalidArgument, "model '" + config_.name + "': output '" + port.name + "' has shape " +
                                          shape.to_string() + " for a batch of " +
                                          std::to_string(config_.max_batch_size) +
                                          "; the model cannot batch, set max_batch_size to 0"};
    }
  }
  if (needed) {
    guard_ = std::move(guard);
  }
  return {};
}

}  // namespace mesh::backend
