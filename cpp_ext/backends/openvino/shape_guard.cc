#include "backends/openvino/shape_guard.h"

#include <openvino/op/constant.hpp>
#include <openvino/op/parameter.hpp>

#include "backends/openvino/settings.h"

namespace mesh::backend {
namespace {

constexpr std::size_t kMostKnownShapes = 4096;
// Shapes are computed from small constants only; what is bigger is taken for weights.
constexpr std::size_t kSmallestWeightBytes = 16'384;

// Puts an input of the same shape in the place of every big constant, after the model's own inputs.
void DropWeights(ov::Model& model) {
  ov::ParameterVector stand_ins;
  for (const auto& node : model.get_ops()) {
    const auto constant = std::dynamic_pointer_cast<ov::op::v0::Constant>(node);
    if (constant != nullptr && constant->get_byte_size() >= kSmallestWeightBytes) {
      auto stand_in =
          std::make_shared<ov::op::v0::Parameter>(constant->get_element_type(), constant->get_output_partial_shape(0));
      constant->output(0).replace(stand_in->output(0));
      stand_ins.push_back(stand_in);
    }
  }
  model.add_parameters(stand_ins);
}

}  // namespace

ShapeGuard::ShapeGuard(const ov::Model& model) : model_(model.clone()) { DropWeights(*model_); }

Status ShapeGuard::Check(const std::vector<ov::PartialShape>& shapes) {
  Key key;
  for (const ov::PartialShape& shape : shapes) {
    key.push_back(static_cast<std::int64_t>(shape.size()));
    for (const ov::Dimension& dim : shape) {
      key.push_back(dim.is_static() ? dim.get_length() : -1);
    }
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = known_.find(key);
  if (found != known_.end()) {
    return found->second;
  }
  Status status = Reshape(shapes);
  if (known_.size() >= kMostKnownShapes) {
    known_.clear();
  }
  known_.emplace(std::move(key), status);
  return status;
}

Status ShapeGuard::Infer(const std::vector<ov::PartialShape>& shapes, std::vector<ov::PartialShape>* outputs) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Status status = Reshape(shapes);
  outputs->clear();
  for (const auto& port : model_->outputs()) {
    outputs->push_back(port.get_partial_shape());
  }
  return status;
}

Status ShapeGuard::Reshape(const std::vector<ov::PartialShape>& shapes) {
  std::map<std::size_t, ov::PartialShape> by_index;
  for (std::size_t index = 0; index < shapes.size(); ++index) {
    by_index[index] = shapes[index];
  }
  try {
    model_->reshape(by_index);
    return {};
  } catch (const std::exception& error) {
    std::string text;
    for (const ov::PartialShape& shape : shapes) {
      text += (text.empty() ? "" : ", ") + shape.to_string();
    }
    return {Code::kInvalidArgument,
            "the model cannot compute inputs of shapes " + text + ": " + WithoutTrace(error.what())};
  }
}

}  // namespace mesh::backend
