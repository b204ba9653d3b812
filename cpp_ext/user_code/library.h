// The shared library of a deployment.
#pragma once

#include <string>

#include "common/status.h"
#include "mesh/abi.h"

namespace mesh::user {

// Loads the library at `path` and finds its factory. It stays loaded until the process ends. FAILED_PRECONDITION says
// what is wrong with it and what to do: it is not there, lacks symbols of others, lacks our symbol, or was compiled for
// another version of the interface.
Result<const MeshFactory*> LoadFactory(const std::string& path);

// The same for one that is found already.
Status CheckFactory(const MeshFactory* factory, const std::string& path);

}  // namespace mesh::user
