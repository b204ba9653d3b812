// A model file, read and compiled by OpenVINO for one Triton model. Shared by the model's instances.
#pragma once

#include <memory>
#include <openvino/openvino.hpp>
#include <string>
#include <vector>

#include "backends/common/model_config.h"
#include "backends/openvino/settings.h"
#include "backends/openvino/shape_guard.h"
#include "backends/openvino/signature.h"
#include "common/status.h"

namespace mesh::backend {

// One input or output that requests may name.
struct Port {
  std::string name;       // the config's
  std::size_t index = 0;  // of the compiled model's inputs or outputs
  TRITONSERVER_DataType datatype = TRITONSERVER_TYPE_INVALID;
  ov::element::Type element;
  // The model's own shape; -1 is dynamic. Not to be relied on where the rank is unknown.
  bool rank_known = true;
  std::vector<std::int64_t> dims;
  bool alone = true;  // no other port is the same tensor of the compiled model under another name
};

// What lives as long as the backend is loaded.
struct OpenVinoBackend {
  ov::Core core;
  Properties settings;
};

class OpenVinoModel {
 public:
  // Reads the file of the model's version, completes its configuration where Triton allows and it lacks something,
  // checks it and compiles. Every failure says which model, which file or tensor, and what is wrong.
  static Result<std::unique_ptr<OpenVinoModel>> Load(TRITONBACKEND_Model* handle, OpenVinoBackend& backend);

  [[nodiscard]] const ModelConfig& config() const { return config_; }
  // In the order of the compiled model: every input, and the outputs that the configuration names, also as states.
  [[nodiscard]] const std::vector<Port>& inputs() const { return inputs_; }
  [[nodiscard]] const std::vector<Port>& outputs() const { return outputs_; }
  // Which of the outputs are next values of states.
  [[nodiscard]] const std::vector<std::size_t>& states() const { return states_; }
  [[nodiscard]] bool batches() const { return config_.max_batch_size > 0; }
  // Null where no shape but the batch is dynamic.
  [[nodiscard]] ShapeGuard* guard() const { return guard_.get(); }
  ov::InferRequest NewRequest() { return compiled_.create_infer_request(); }

 private:
  explicit OpenVinoModel(ModelConfig config) : config_(std::move(config)) {}
  Status Build(const std::shared_ptr<ov::Model>& source, OpenVinoBackend& backend);
  Status Guard(const ov::Model& source);

  ModelConfig config_;
  std::vector<Port> inputs_;
  std::vector<Port> outputs_;
  std::vector<std::size_t> states_;
  ov::CompiledModel compiled_;
  std::unique_ptr<ShapeGuard> guard_;
};

// TRITONSERVER_TYPE_INVALID for types that Triton does not have.
TRITONSERVER_DataType TritonType(const ov::element::Type& type);

}  // namespace mesh::backend
