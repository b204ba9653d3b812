// Where the model file is and which OpenVINO properties it is compiled with. Pure but for looking at the folder.
#pragma once

#include <map>
#include <string>

#include "backends/common/model_config.h"
#include "common/status.h"

namespace mesh::backend {

using Properties = std::map<std::string, std::string>;

// The settings of {"cmdline": {"<setting>": "<value>"}}.
Result<Properties> ParseBackendSettings(const std::string& json);

// Properties for compiling a model. Keys in capitals are OpenVINO's (INFERENCE_NUM_THREADS, NUM_STREAMS,
// PERFORMANCE_HINT ...): the model's parameters overrule the backend's settings, which overrule the defaults: one
// stream and one thread per instance, no pinning of threads (the replicas of one node would all pin to the same
// cores), FP32 computed as FP32 also on processors with BF16 units. Other keys belong to others and are left alone.
// TARGET_DEVICE may only be CPU.
Result<Properties> CompileProperties(const ModelConfig& config, const Properties& settings);

// max_batch_size for models that say none: Triton's setting `default-max-batch-size`, 4 where it is absent.
std::int64_t DefaultMaxBatchSize(const Properties& settings);

// The model's file in its version folder: `default_model_filename` where the config names one that is there, else
// model.onnx or model.xml. NOT_FOUND says what was looked for and what lies there.
Result<std::string> FindModelFile(const ModelConfig& config, const std::string& version_folder);

// OpenVINO's error text without the lines about its own source files.
std::string WithoutTrace(const std::string& message);

}  // namespace mesh::backend
