// Whole files.
#pragma once

#include <cstddef>
#include <string>

#include "common/status.h"

namespace mesh {

// The content of a regular file. NOT_FOUND, PERMISSION_DENIED or FAILED_PRECONDITION name the file and the cause;
// RESOURCE_EXHAUSTED when it is larger than `max_bytes`.
Result<std::string> ReadFile(const std::string& path, std::size_t max_bytes = 16U << 20);

}  // namespace mesh
