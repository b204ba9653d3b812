// Owners of Triton's C objects, and the one place where its errors become a Status.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "common/status.h"
#include "triton/c_api.h"

namespace mesh::triton {

// Takes the error over; null is OK. The codes are those that `tritonserver` answers over gRPC.
Status ToStatus(TRITONSERVER_Error* error);
// For callbacks that must answer Triton with an error of its own.
TRITONSERVER_Error* ToTritonError(const Status& status);

struct Deleter {
  void operator()(TRITONSERVER_ServerOptions* options) const;
  void operator()(TRITONSERVER_InferenceResponse* response) const;
  void operator()(TRITONSERVER_Message* message) const;
  void operator()(TRITONSERVER_Metrics* metrics) const;
  void operator()(TRITONSERVER_ResponseAllocator* allocator) const;
  void operator()(TRITONSERVER_Parameter* parameter) const;
};

struct RequestDeleter {
  std::size_t slot = 0;  // of the model in the server's counts (open_calls.h)

  void operator()(TRITONSERVER_InferenceRequest* request) const;
};

using ServerOptionsHandle = std::unique_ptr<TRITONSERVER_ServerOptions, Deleter>;
using RequestHandle = std::unique_ptr<TRITONSERVER_InferenceRequest, RequestDeleter>;
using ResponseHandle = std::unique_ptr<TRITONSERVER_InferenceResponse, Deleter>;
using MessageHandle = std::unique_ptr<TRITONSERVER_Message, Deleter>;
using MetricsHandle = std::unique_ptr<TRITONSERVER_Metrics, Deleter>;
using AllocatorHandle = std::unique_ptr<TRITONSERVER_ResponseAllocator, Deleter>;
using ParameterHandle = std::unique_ptr<TRITONSERVER_Parameter, Deleter>;

// The JSON text of a message.
Result<std::string> ToJson(const MessageHandle& message);

}  // namespace mesh::triton
