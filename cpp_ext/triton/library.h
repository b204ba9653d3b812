// Triton's server library, loaded once per process.
#pragma once

#include <string>

#include "common/status.h"
#include "triton/c_api.h"

namespace mesh::triton {

// The functions of the loaded library.
struct Api {
// NOLINTNEXTLINE(bugprone-macro-parentheses): a member's name
#define MESH_TRITON_MEMBER(name) decltype(&TRITONSERVER_##name) name = nullptr;
  MESH_TRITON_FUNCTIONS(MESH_TRITON_MEMBER)
#undef MESH_TRITON_MEMBER
  std::string path;
  std::uint32_t minor_version = 0;
};

// Where the library is: `hint` may be the file itself, a folder that holds libtritonserver*.so, or empty for an
// installation under /opt/tritonserver. NOT_FOUND says what was looked at.
Result<std::string> FindLibrary(const std::string& hint);

// Loads it (FindLibrary, its dependencies that lie beside it, every function of c_api.h) and checks the API version.
// Repeating it with the same file is free; another file is FAILED_PRECONDITION, since Triton keeps state per process.
// The library is never unloaded. Thread-safe.
Status LoadLibrary(const std::string& hint);

// Opens what `file` (a backend) needs and what lies beside Triton's library, so that Triton can open the backend from
// wherever it is linked to. After LoadLibrary.
Status OpenDependencies(const std::string& file);

// The loaded functions. Calling it before LoadLibrary succeeded is a programming error and ends the process.
const Api& GetApi();

}  // namespace mesh::triton
