// Triton's functions as pointers, found at run time in the process that loaded the backend.
//
// Why not at link time: the server library of the Python wheel has a hashed name, the one of an installation under
// /opt/tritonserver another, and the mesh loads either with RTLD_LOCAL. A backend without undefined Triton symbols
// loads under all of them, and always calls the very server that called it.
#pragma once

#include "backends/common/backend_api.h"
#include "common/status.h"

namespace mesh::backend {

#define MESH_TRITON_FUNCTIONS(X)                                   \
  X(TRITONSERVER_ErrorNew)                                         \
  X(TRITONSERVER_ErrorDelete)                                      \
  X(TRITONSERVER_ErrorCode)                                        \
  X(TRITONSERVER_ErrorMessage)                                     \
  X(TRITONSERVER_MessageNewFromSerializedJson)                     \
  X(TRITONSERVER_MessageDelete)                                    \
  X(TRITONSERVER_MessageSerializeToJson)                           \
  X(TRITONSERVER_LogIsEnabled)                                     \
  X(TRITONSERVER_LogMessage)                                       \
  X(TRITONBACKEND_ApiVersion)                                      \
  X(TRITONBACKEND_BackendConfig)                                   \
  X(TRITONBACKEND_BackendState)                                    \
  X(TRITONBACKEND_BackendSetState)                                 \
  X(TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup)       \
  X(TRITONBACKEND_BackendAttributeSetParallelModelInstanceLoading) \
  X(TRITONBACKEND_ModelName)                                       \
  X(TRITONBACKEND_ModelVersion)                                    \
  X(TRITONBACKEND_ModelRepository)                                 \
  X(TRITONBACKEND_ModelConfig)                                     \
  X(TRITONBACKEND_ModelAutoCompleteConfig)                         \
  X(TRITONBACKEND_ModelSetConfig)                                  \
  X(TRITONBACKEND_ModelBackend)                                    \
  X(TRITONBACKEND_ModelState)                                      \
  X(TRITONBACKEND_ModelSetState)                                   \
  X(TRITONBACKEND_ModelInstanceName)                               \
  X(TRITONBACKEND_ModelInstanceKind)                               \
  X(TRITONBACKEND_ModelInstanceModel)                              \
  X(TRITONBACKEND_ModelInstanceState)                              \
  X(TRITONBACKEND_ModelInstanceSetState)                           \
  X(TRITONBACKEND_ModelInstanceReportStatistics)                   \
  X(TRITONBACKEND_ModelInstanceReportBatchStatistics)              \
  X(TRITONBACKEND_RequestId)                                       \
  X(TRITONBACKEND_RequestIsCancelled)                              \
  X(TRITONBACKEND_RequestInputCount)                               \
  X(TRITONBACKEND_RequestInputByIndex)                             \
  X(TRITONBACKEND_RequestInput)                                    \
  X(TRITONBACKEND_RequestOutputCount)                              \
  X(TRITONBACKEND_RequestOutputName)                               \
  X(TRITONBACKEND_RequestParameterCount)                           \
  X(TRITONBACKEND_RequestParameter)                                \
  X(TRITONBACKEND_RequestRelease)                                  \
  X(TRITONBACKEND_InputProperties)                                 \
  X(TRITONBACKEND_InputBuffer)                                     \
  X(TRITONBACKEND_ResponseNew)                                     \
  X(TRITONBACKEND_ResponseFactoryNew)                              \
  X(TRITONBACKEND_ResponseFactoryDelete)                           \
  X(TRITONBACKEND_ResponseFactorySendFlags)                        \
  X(TRITONBACKEND_ResponseDelete)                                  \
  X(TRITONBACKEND_ResponseSetStringParameter)                      \
  X(TRITONBACKEND_ResponseSetIntParameter)                         \
  X(TRITONBACKEND_ResponseSetBoolParameter)                        \
  X(TRITONBACKEND_ResponseOutput)                                  \
  X(TRITONBACKEND_OutputBuffer)                                    \
  X(TRITONBACKEND_ResponseSend)                                    \
  X(TRITONBACKEND_StateNew)                                        \
  X(TRITONBACKEND_StateBuffer)                                     \
  X(TRITONBACKEND_StateUpdate)

struct Api {
#define MESH_DECLARE(name) decltype(&::name) name = nullptr;  // NOLINT(bugprone-macro-parentheses): a member's name
  MESH_TRITON_FUNCTIONS(MESH_DECLARE)
#undef MESH_DECLARE
};

// The functions found by BindApi. Calling one before BindApi succeeded is a programming error.
const Api& api();

// Finds every function in the library that holds the address `caller`, else anywhere in the process, and checks that
// the server speaks major version 1. To be called first thing in TRITONBACKEND_Initialize with its return address;
// safe to call again.
Status BindApi(const void* caller);

}  // namespace mesh::backend
