// What a model file says of its inputs and outputs, and how that fits a Triton configuration. Pure: no OpenVINO here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backends/common/backend_api.h"
#include "backends/common/model_config.h"
#include "common/status.h"

namespace mesh::backend {

struct TensorSignature {
  std::vector<std::string> names;  // of one and the same tensor, the preferred one first; never empty
  TRITONSERVER_DataType datatype = TRITONSERVER_TYPE_INVALID;  // invalid: Triton has no such type
  std::string file_type;                                       // the model's own word for its datatype
  bool rank_known = true;
  std::vector<std::int64_t> dims;  // -1: dynamic; with the batch dimension

  [[nodiscard]] const std::string& name() const { return names.front(); }
  [[nodiscard]] bool Answers(const std::string& name) const;
};

struct ModelSignature {
  std::vector<TensorSignature> inputs;
  std::vector<TensorSignature> outputs;
};

// True when the first dimension of every input and output is dynamic, so that it can be taken for the batch.
bool CanBatch(const ModelSignature& model);

// OK when requests that fit the configuration fit the model; else what differs, where, and what both say.
Status Validate(const ModelConfig& config, const ModelSignature& model);

// The configuration with what it lacks taken from the model: inputs, outputs, datatypes, dims; and, where it names no
// tensors at all and the model can batch, max_batch_size = `default_max_batch_size` with dynamic batching. Empty text
// when nothing is lacking.
Result<std::string> Complete(const std::string& config_json, const ModelSignature& model,
                             std::int64_t default_max_batch_size);

}  // namespace mesh::backend
