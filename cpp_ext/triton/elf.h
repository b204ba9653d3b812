// What a shared library says it needs, read from its file.
#pragma once

#include <string>
#include <vector>

#include "common/status.h"

namespace mesh::triton {

// The DT_NEEDED names of a 64-bit little-endian ELF file, in their order. INVALID_ARGUMENT for anything else.
Result<std::vector<std::string>> NeededLibraries(const std::string& file);

}  // namespace mesh::triton
