// The part of a Triton model configuration that our backends read, from its JSON form. Pure.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "backends/common/backend_api.h"
#include "common/status.h"

namespace mesh::backend {

struct TensorConfig {
  std::string name;
  TRITONSERVER_DataType datatype = TRITONSERVER_TYPE_INVALID;  // invalid: not given
  std::vector<std::int64_t> dims;                              // without the batch dimension; -1: any
  bool has_reshape = false;
  std::vector<std::int64_t> reshape;  // what the model itself takes, where has_reshape
  bool optional = false;
  bool ragged = false;  // allow_ragged_batch

  // The dims as the model sees them.
  [[nodiscard]] const std::vector<std::int64_t>& ModelDims() const { return has_reshape ? reshape : dims; }
};

struct ModelConfig {
  std::string name;
  std::int64_t max_batch_size = 0;  // 0: the model does not batch
  std::vector<TensorConfig> inputs;
  std::vector<TensorConfig> outputs;
  // Of a model with sequences: what Triton adds to each request (controls and values of states), and the outputs that
  // are the next values of the states. Clients do not see them, but a state's output may stand in `outputs` too.
  std::vector<TensorConfig> sequence_inputs;
  std::vector<TensorConfig> state_outputs;
  std::map<std::string, std::string> parameters;
  std::string default_model_filename;
  std::int64_t instances = 1;  // over all instance groups
  bool has_scheduler = false;  // dynamic, sequence or ensemble scheduling is set
};

// What the model itself must have: the tensors of clients and of sequences, each once.
std::vector<TensorConfig> AllInputs(const ModelConfig& config);
std::vector<TensorConfig> AllOutputs(const ModelConfig& config);

// INVALID_ARGUMENT with the place of the fault for JSON that is no model configuration.
Result<ModelConfig> ParseModelConfig(const std::string& json);

// A parameter that must be a whole number in [least, most]; `fallback` where it is absent.
Result<std::int64_t> IntegerParameter(const ModelConfig& config, const std::string& key, std::int64_t fallback,
                                      std::int64_t least, std::int64_t most);

}  // namespace mesh::backend
