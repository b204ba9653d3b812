// The entry points of the OpenVINO backend: ONNX models and OpenVINO IR on CPUs.
#include <memory>
#include <string>

#include "backends/common/api.h"
#include "backends/common/errors.h"
#include "backends/common/model.h"
#include "backends/openvino/instance.h"
#include "backends/openvino/model.h"
#include "backends/openvino/settings.h"

namespace mesh::backend {
namespace {

// Frees what was kept as the state of a Triton object.
template <typename T, typename Handle>
TRITONSERVER_Error* DropState(Handle* handle, TRITONSERVER_Error* (*get)(Handle*, void**)) {
  void* state = nullptr;
  TRITONSERVER_Error* error = get(handle, &state);
  if (error != nullptr) {
    return error;
  }
  return ToTriton(Guarded([&] {
    TakeState<T>(state).reset();
    return Status();
  }));
}

// Gives the object to Triton as the state of `handle`.
template <typename T, typename Handle>
Status KeepState(Handle* handle, std::unique_ptr<T> object, TRITONSERVER_Error* (*set)(Handle*, void*)) {
  MESH_RETURN_IF_ERROR(FromTriton(set(handle, object.get())));
  object.release();  // NOLINT(bugprone-unused-return-value): Triton holds it until it is finalized
  return {};
}

Status StartBackend(TRITONBACKEND_Backend* handle) {
  TRITONSERVER_Message* message = nullptr;
  MESH_RETURN_IF_ERROR(FromTriton(api().TRITONBACKEND_BackendConfig(handle, &message)));
  Result<std::string> text = MessageText(message);
  if (!text.ok()) {
    return text.status();
  }
  Result<Properties> settings = ParseBackendSettings(text.value());
  if (!settings.ok()) {
    return settings.status();
  }
  auto backend = std::make_unique<OpenVinoBackend>();
  backend->settings = std::move(settings).value();
  return KeepState(handle, std::move(backend), api().TRITONBACKEND_BackendSetState);
}

Status LoadModel(TRITONBACKEND_Model* handle) {
  TRITONBACKEND_Backend* owner = nullptr;
  void* backend = nullptr;
  MESH_RETURN_IF_ERROR(FromTriton(api().TRITONBACKEND_ModelBackend(handle, &owner)));
  MESH_RETURN_IF_ERROR(FromTriton(api().TRITONBACKEND_BackendState(owner, &backend)));
  Result<std::unique_ptr<OpenVinoModel>> model = OpenVinoModel::Load(handle, *static_cast<OpenVinoBackend*>(backend));
  if (!model.ok()) {
    return model.status();
  }
  return KeepState(handle, std::move(model).value(), api().TRITONBACKEND_ModelSetState);
}

Status StartInstance(TRITONBACKEND_ModelInstance* handle) {
  TRITONBACKEND_Model* owner = nullptr;
  void* model = nullptr;
  TRITONSERVER_InstanceGroupKind kind = TRITONSERVER_INSTANCEGROUPKIND_CPU;
  MESH_RETURN_IF_ERROR(FromTriton(api().TRITONBACKEND_ModelInstanceModel(handle, &owner)));
  MESH_RETURN_IF_ERROR(FromTriton(api().TRITONBACKEND_ModelState(owner, &model)));
  MESH_RETURN_IF_ERROR(FromTriton(api().TRITONBACKEND_ModelInstanceKind(handle, &kind)));
  auto& loaded = *static_cast<OpenVinoModel*>(model);
  if (kind == TRITONSERVER_INSTANCEGROUPKIND_GPU) {
    return {Code::kUnimplemented,
            "model '" + loaded.config().name + "': instance_group asks for KIND_GPU, this backend has KIND_CPU only"};
  }
  return KeepState(handle, std::make_unique<Instance>(loaded, handle), api().TRITONBACKEND_ModelInstanceSetState);
}

}  // namespace
}  // namespace mesh::backend

using mesh::Status;
using namespace mesh::backend;  // NOLINT(google-build-using-namespace): the entry points are all of the rest

TRITONSERVER_Error* TRITONBACKEND_Initialize(TRITONBACKEND_Backend* backend) {
  if (const Status bound = BindApi(__builtin_return_address(0)); !bound.ok()) {
    return ToTriton(bound);
  }
  return ToTriton(Guarded([&] { return StartBackend(backend); }));
}

TRITONSERVER_Error* TRITONBACKEND_Finalize(TRITONBACKEND_Backend* backend) {
  return DropState<OpenVinoBackend>(backend, api().TRITONBACKEND_BackendState);
}

TRITONSERVER_Error* TRITONBACKEND_GetBackendAttribute(TRITONBACKEND_Backend* /*backend*/,
                                                      TRITONBACKEND_BackendAttribute* attributes) {
  if (TRITONSERVER_Error* error =
          api().TRITONBACKEND_BackendAttributeSetParallelModelInstanceLoading(attributes, true)) {
    return error;
  }
  return api().TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup(attributes, TRITONSERVER_INSTANCEGROUPKIND_CPU,
                                                                       1, nullptr, 0);
}

TRITONSERVER_Error* TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model* model) {
  return ToTriton(Guarded([&] { return LoadModel(model); }));
}

TRITONSERVER_Error* TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model* model) {
  return DropState<OpenVinoModel>(model, api().TRITONBACKEND_ModelState);
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceInitialize(TRITONBACKEND_ModelInstance* instance) {
  return ToTriton(Guarded([&] { return StartInstance(instance); }));
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceFinalize(TRITONBACKEND_ModelInstance* instance) {
  return DropState<Instance>(instance, api().TRITONBACKEND_ModelInstanceState);
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(TRITONBACKEND_ModelInstance* instance,
                                                       TRITONBACKEND_Request** requests, uint32_t request_count) {
  void* state = nullptr;
  if (TRITONSERVER_Error* error = api().TRITONBACKEND_ModelInstanceState(instance, &state)) {
    return error;
  }
  return ToTriton(Guarded([&] {
    static_cast<Instance*>(state)->Execute(requests, request_count);
    return Status();
  }));
}
