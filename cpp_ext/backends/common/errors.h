// Between our Status and Triton's error objects, and the edge that exceptions do not cross.
#pragma once

#include <exception>
#include <new>
#include <string>
#include <utility>

#include "backends/common/backend_api.h"
#include "common/status.h"

namespace mesh::backend {

// Triton's error for a status; null for OK. The caller owns it.
TRITONSERVER_Error* ToTriton(const Status& status);

// Takes the error (null is OK).
Status FromTriton(TRITONSERVER_Error* error);

void Log(TRITONSERVER_LogLevel level, const std::string& message);

// Logs a failure of a call whose outcome nobody waits for.
void LogFailure(const char* what, TRITONSERVER_Error* error);

// Runs `work`, which returns a Status; whatever it throws becomes an INTERNAL status that says what was thrown.
template <typename Work>
Status Guarded(Work&& work) noexcept {
  try {
    return std::forward<Work>(work)();
  } catch (const std::bad_alloc&) {
    return {Code::kResourceExhausted, "out of memory"};
  } catch (const std::exception& error) {
    return {Code::kInternal, error.what()};
  } catch (...) {
    return {Code::kInternal, "an exception of an unknown type"};
  }
}

}  // namespace mesh::backend

// Returns from the function with the status of `expression` unless it is OK.
#define MESH_RETURN_IF_ERROR(expression)                                      \
  do {                                                                        \
    if (::mesh::Status status_ = (expression); !status_.ok()) return status_; \
  } while (false)
