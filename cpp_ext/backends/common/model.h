// What a backend asks Triton about a model.
#pragma once

#include <memory>
#include <string>

#include "backends/common/backend_api.h"
#include "backends/common/model_config.h"
#include "common/status.h"

namespace mesh::backend {

// The configuration as JSON text.
Result<std::string> ModelConfigJson(TRITONBACKEND_Model* model);

// A message of Triton's as text.
Result<std::string> MessageText(TRITONSERVER_Message* message);

// Owns what was set as the state of a model or an instance: state pointers travel through C as void*.
template <typename T>
std::unique_ptr<T> TakeState(void* state) {
  return std::unique_ptr<T>(static_cast<T*>(state));
}

}  // namespace mesh::backend
