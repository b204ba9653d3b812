#include "backends/common/errors.h"

#include "backends/common/api.h"

namespace mesh::backend {
namespace {

TRITONSERVER_Error_Code TritonCode(Code code) {
  switch (code) {
    case Code::kInvalidArgument:
    case Code::kOutOfRange:
    case Code::kFailedPrecondition: return TRITONSERVER_ERROR_INVALID_ARG;
    case Code::kNotFound: return TRITONSERVER_ERROR_NOT_FOUND;
    case Code::kAlreadyExists: return TRITONSERVER_ERROR_ALREADY_EXISTS;
    case Code::kUnavailable:
    case Code::kResourceExhausted: return TRITONSERVER_ERROR_UNAVAILABLE;
    case Code::kUnimplemented: return TRITONSERVER_ERROR_UNSUPPORTED;
    case Code::kCancelled: return TRITONSERVER_ERROR_CANCELLED;
    default: return TRITONSERVER_ERROR_INTERNAL;
  }
}

Code MeshCode(TRITONSERVER_Error_Code code) {
  switch (code) {
    case TRITONSERVER_ERROR_NOT_FOUND: return Code::kNotFound;
    case TRITONSERVER_ERROR_INVALID_ARG: return Code::kInvalidArgument;
    case TRITONSERVER_ERROR_UNAVAILABLE: return Code::kUnavailable;
    case TRITONSERVER_ERROR_UNSUPPORTED: return Code::kUnimplemented;
    case TRITONSERVER_ERROR_ALREADY_EXISTS: return Code::kAlreadyExists;
    case TRITONSERVER_ERROR_CANCELLED: return Code::kCancelled;
    default: return Code::kInternal;
  }
}

}  // namespace

TRITONSERVER_Error* ToTriton(const Status& status) {
  return status.ok() ? nullptr : api().TRITONSERVER_ErrorNew(TritonCode(status.code()), status.message().c_str());
}

Status FromTriton(TRITONSERVER_Error* error) {
  if (error == nullptr) {
    return {};
  }
  Status status(MeshCode(api().TRITONSERVER_ErrorCode(error)), api().TRITONSERVER_ErrorMessage(error));
  api().TRITONSERVER_ErrorDelete(error);
  return status;
}

void Log(TRITONSERVER_LogLevel level, const std::string& message) {
  if (api().TRITONSERVER_LogIsEnabled(level)) {
    if (TRITONSERVER_Error* error = api().TRITONSERVER_LogMessage(level, "mesh", 0, message.c_str())) {
      api().TRITONSERVER_ErrorDelete(error);
    }
  }
}

void LogFailure(const char* what, TRITONSERVER_Error* error) {
  if (error != nullptr) {
    Log(TRITONSERVER_LOG_ERROR, std::string(what) + ": " + FromTriton(error).message());
  }
}

}  // namespace mesh::backend
