#include "backends/common/model.h"

#include "backends/common/api.h"
#include "backends/common/errors.h"

namespace mesh::backend {

Result<std::string> MessageText(TRITONSERVER_Message* message) {
  const char* base = nullptr;
  std::size_t size = 0;
  MESH_RETURN_IF_ERROR(FromTriton(api().TRITONSERVER_MessageSerializeToJson(message, &base, &size)));
  return std::string(base, size);
}

Result<std::string> ModelConfigJson(TRITONBACKEND_Model* model) {
  TRITONSERVER_Message* message = nullptr;
  MESH_RETURN_IF_ERROR(FromTriton(api().TRITONBACKEND_ModelConfig(model, 1, &message)));
  Result<std::string> text = MessageText(message);
  LogFailure("cannot delete a message", api().TRITONSERVER_MessageDelete(message));
  return text;
}

}  // namespace mesh::backend
