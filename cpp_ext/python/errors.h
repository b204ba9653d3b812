// mesh::Status as an exception of serving.errors.
#pragma once

#include <pybind11/pybind11.h>

#include "common/status.h"

namespace mesh::python {

// Raises the error of serving.errors that stands for the status. With the GIL.
[[noreturn]] void Raise(const Status& status);

inline void RaiseUnlessOk(const Status& status) {
  if (!status.ok()) Raise(status);
}

template <typename T>
T ValueOrRaise(Result<T> result) {
  if (!result.ok()) Raise(result.status());
  return std::move(result).value();
}

}  // namespace mesh::python
