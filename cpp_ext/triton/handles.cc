#include "triton/handles.h"

#include "triton/library.h"

namespace mesh::triton {
namespace {

Code ToCode(TRITONSERVER_Error_Code code) {
  switch (code) {
    case TRITONSERVER_ERROR_UNKNOWN: return Code::kUnknown;
    case TRITONSERVER_ERROR_INTERNAL: return Code::kInternal;
    case TRITONSERVER_ERROR_NOT_FOUND: return Code::kNotFound;
    case TRITONSERVER_ERROR_INVALID_ARG: return Code::kInvalidArgument;
    case TRITONSERVER_ERROR_UNAVAILABLE: return Code::kUnavailable;
    case TRITONSERVER_ERROR_UNSUPPORTED: return Code::kUnimplemented;
    case TRITONSERVER_ERROR_ALREADY_EXISTS: return Code::kAlreadyExists;
    case TRITONSERVER_ERROR_CANCELLED: return Code::kCancelled;
  }
  return Code::kUnknown;
}

TRITONSERVER_Error_Code FromCode(Code code) {
  switch (code) {
    case Code::kInternal: return TRITONSERVER_ERROR_INTERNAL;
    case Code::kNotFound: return TRITONSERVER_ERROR_NOT_FOUND;
    case Code::kInvalidArgument: return TRITONSERVER_ERROR_INVALID_ARG;
    case Code::kUnavailable:
    case Code::kResourceExhausted: return TRITONSERVER_ERROR_UNAVAILABLE;
    case Code::kUnimplemented: return TRITONSERVER_ERROR_UNSUPPORTED;
    case Code::kAlreadyExists: return TRITONSERVER_ERROR_ALREADY_EXISTS;
    case Code::kCancelled: return TRITONSERVER_ERROR_CANCELLED;
    default: return TRITONSERVER_ERROR_UNKNOWN;
  }
}

// A delete fails only for a null pointer, which no owner passes; its error would be all that is left to free.
void Drop(TRITONSERVER_Error* error) {
  if (error != nullptr) GetApi().ErrorDelete(error);
}

}  // namespace

Status ToStatus(TRITONSERVER_Error* error) {
  if (error == nullptr) return {};
  const Api& api = GetApi();
  Status status(ToCode(api.ErrorCode(error)), api.ErrorMessage(error));
  api.ErrorDelete(error);
  return status;
}

TRITONSERVER_Error* ToTritonError(const Status& status) {
  if (status.ok()) return nullptr;
  return GetApi().ErrorNew(FromCode(status.code()), status.message().c_str());
}

void Deleter::operator()(TRITONSERVER_ServerOptions* options) const { Drop(GetApi().ServerOptionsDelete(options)); }
void RequestDeleter::operator()(TRITONSERVER_InferenceRequest* request) const {
  Drop(GetApi().InferenceRequestDelete(request));
}
void Deleter::operator()(TRITONSERVER_InferenceResponse* response) const {
  Drop(GetApi().InferenceResponseDelete(response));
}
void Deleter::operator()(TRITONSERVER_Message* message) const { Drop(GetApi().MessageDelete(message)); }
void Deleter::operator()(TRITONSERVER_Metrics* metrics) const { Drop(GetApi().MetricsDelete(metrics)); }
void Deleter::operator()(TRITONSERVER_ResponseAllocator* allocator) const {
  Drop(GetApi().ResponseAllocatorDelete(allocator));
}
void Deleter::operator()(TRITONSERVER_Parameter* parameter) const { GetApi().ParameterDelete(parameter); }

Result<std::string> ToJson(const MessageHandle& message) {
  const char* base = nullptr;
  std::size_t size = 0;
  if (Status status = ToStatus(GetApi().MessageSerializeToJson(message.get(), &base, &size)); !status.ok()) {
    return status;
  }
  return std::string(base, size);
}

}  // namespace mesh::triton
