#include "backends/openvino/signature.h"

#include <algorithm>

#include "backends/common/datatypes.h"

namespace mesh::backend {
namespace {

enum class Side { kInput, kOutput };

const char* Word(Side side) { return side == Side::kInput ? "input" : "output"; }

Status Invalid(const ModelConfig& config, const std::string& text) {
  return {Code::kInvalidArgument, "model '" + config.name + "': " + text};
}

std::string NameList(const std::vector<TensorSignature>& tensors) {
  std::string text;
  for (const TensorSignature& tensor : tensors) {
    text += (text.empty() ? "'" : ", '") + tensor.name() + "'";
  }
  return text.empty() ? "none" : text;
}

const TensorSignature* Find(const std::vector<TensorSignature>& tensors, const std::string& name) {
  const auto found =
      std::find_if(tensors.begin(), tensors.end(), [&](const TensorSignature& tensor) { return tensor.Answers(name); });
  return found == tensors.end() ? nullptr : &*found;
}

// The config's dims as the model sees them, with the batch dimension.
std::vector<std::int64_t> FullDims(const ModelConfig& config, const TensorConfig& tensor) {
  std::vector<std::int64_t> dims = tensor.ModelDims();
  if (config.max_batch_size > 0) {
    dims.insert(dims.begin(), -1);
  }
  return dims;
}

Status CheckBatchDimension(const ModelConfig& config, const TensorSignature& tensor, const std::string& what) {
  const std::string limit = "max_batch_size is " + std::to_string(config.max_batch_size);
  if (tensor.dims.empty()) {
    return Invalid(config, limit + ", but " + what + " is a scalar; set max_batch_size to 0");
  }
  const std::int64_t first = tensor.dims.front();
  if (first != -1 && !(first == 1 && config.max_batch_size == 1)) {
    return Invalid(config, limit + ", but the first dimension of " + what + " is fixed at " + std::to_string(first) +
                               "; set max_batch_size to 0, or export the model with a dynamic batch dimension");
  }
  return {};
}

// An input's config must not allow what the model refuses; an output's may be wider than the model.
bool DimFits(Side side, std::int64_t in_model, std::int64_t in_config) {
  return in_model == -1 || in_model == in_config || (side == Side::kOutput && in_config == -1);
}

Status CheckShape(const ModelConfig& config, const TensorConfig& tensor, const TensorSignature& model, Side side,
                  const std::string& what) {
  if (!model.rank_known) {
    return {};
  }
  const std::vector<std::int64_t> dims = FullDims(config, tensor);
  const char* note = config.max_batch_size > 0 ? " (the batch dimension included)" : "";
  if (model.dims.size() != dims.size()) {
    return Invalid(config, what + " has " + std::to_string(model.dims.size()) + " dims, config says " +
                               std::to_string(dims.size()) + note);
  }
  const std::size_t first = config.max_batch_size > 0 ? 1 : 0;
  for (std::size_t index = first; index < dims.size(); ++index) {
    if (!DimFits(side, model.dims[index], dims[index])) {
      return Invalid(config, what + " has shape " + ShapeText(model.dims) + ", config says " + ShapeText(dims) + note);
    }
  }
  return {};
}

Status CheckTensor(const ModelConfig& config, const TensorConfig& tensor, const std::vector<TensorSignature>& tensors,
                   Side side) {
  const std::string what = std::string(Word(side)) + " '" + tensor.name + "'";
  const TensorSignature* model = Find(tensors, tensor.name);
  if (model == nullptr) {
    return Invalid(config, "config names " + what + ", the model's " + Word(side) + "s are " + NameList(tensors));
  }
  if (model->datatype == TRITONSERVER_TYPE_INVALID) {
    return Invalid(config, what + " has datatype " + model->file_type + ", which cannot be served");
  }
  if (tensor.datatype != model->datatype) {
    return Invalid(config, what + " has datatype " + DataTypeName(model->datatype) + ", config says " +
                               DataTypeName(tensor.datatype));
  }
  if (config.max_batch_size > 0 && model->rank_known) {
    if (Status status = CheckBatchDimension(config, *model, what); !status.ok()) {
      return status;
    }
  }
  return CheckShape(config, tensor, *model, side, what);
}

Status CheckCounts(const ModelConfig& config, const ModelSignature& model) {
  if (const std::size_t inputs = AllInputs(config).size(); inputs != model.inputs.size()) {
    return Invalid(config, "the model has " + std::to_string(model.inputs.size()) + " inputs (" +
                               NameList(model.inputs) + "), config says " + std::to_string(inputs));
  }
  for (const TensorSignature& tensor : model.inputs) {  // two names of one input would leave another one without values
    const auto names_it = [&](const TensorConfig& input) { return tensor.Answers(input.name); };
    const std::vector<TensorConfig> inputs = AllInputs(config);
    if (std::none_of(inputs.begin(), inputs.end(), names_it)) {
      return Invalid(config, "config does not name the model's input '" + tensor.name() +
                                 "', and names another one twice (a tensor of a model may have several names)");
    }
  }
  if (config.outputs.empty()) {  // more than the model's there may be: one tensor of it may have several names
    return Invalid(config, "the model has " + std::to_string(model.outputs.size()) + " outputs (" +
                               NameList(model.outputs) + "), config says " + std::to_string(config.outputs.size()));
  }
  return {};
}

}  // namespace

bool TensorSignature::Answers(const std::string& name) const {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool CanBatch(const ModelSignature& model) {
  const auto dynamic_first = [](const TensorSignature& tensor) {
    return tensor.rank_known && !tensor.dims.empty() && tensor.dims.front() == -1;
  };
  return !model.inputs.empty() && std::all_of(model.inputs.begin(), model.inputs.end(), dynamic_first) &&
         std::all_of(model.outputs.begin(), model.outputs.end(), dynamic_first);
}

Status Validate(const ModelConfig& config, const ModelSignature& model) {
  for (const TensorConfig& input : AllInputs(config)) {
    if (input.ragged) {
      return Invalid(config, "input '" + input.name + "' allows ragged batches, which this backend does not support");
    }
    if (input.optional) {
      return Invalid(config, "input '" + input.name + "' is optional, but the model needs every input");
    }
    if (Status status = CheckTensor(config, input, model.inputs, Side::kInput); !status.ok()) {
      return status;
    }
  }
  for (const TensorConfig& output : AllOutputs(config)) {
    if (Status status = CheckTensor(config, output, model.outputs, Side::kOutput); !status.ok()) {
      return status;
    }
  }
  return CheckCounts(config, model);
}

}  // namespace mesh::backend
