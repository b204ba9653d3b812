#include "user_code/library.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include "common/sanitizers.h"
#include "mesh/version.h"

namespace mesh::user {
namespace {

namespace fs = std::filesystem;

// Ray's library gives the whole process its own JSON, protobuf and gRPC under their usual names: the user's library
// must find its own first. Sanitizers cannot have that.
constexpr int kFlags = RTLD_NOW | RTLD_LOCAL | (kSanitized ? 0 : RTLD_DEEPBIND);

Status Wrong(const std::string& text) { return {Code::kFailedPrecondition, text}; }

std::string Beside(const fs::path& path) {
  std::error_code error;
  std::vector<std::string> found;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(path.parent_path(), error)) {
    if (entry.path().extension() == ".so") found.push_back(entry.path().filename().string());
  }
  std::sort(found.begin(), found.end());
  std::string names;
  for (const std::string& name : found) names += (names.empty() ? "" : ", ") + name;
  return names.empty() ? "no library lies there" : "there are " + names;
}

Status LoaderProblem(const std::string& path) {
  const char* told = dlerror();
  const std::string reason = told == nullptr ? "no reason is given" : told;
  std::string advice = "`ldd -r` shows what it lacks on this node";
  if (reason.find("undefined symbol") != std::string::npos) {
    advice = "link it with everything that it uses (target_link_libraries; `-Wl,-z,defs` finds it when it is built)";
  } else if (reason.find("cannot open shared object file") != std::string::npos) {
    advice = "put that library beside it and link with the run path $ORIGIN, or install it on the node";
  }
  return Wrong("library " + path + " cannot be loaded: " + reason + "; " + advice);
}

}  // namespace

Result<const MeshFactory*> LoadFactory(const std::string& path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) return Wrong("library " + path + " is not there: " + Beside(path));
  void* handle = dlopen(path.c_str(), kFlags);
  if (handle == nullptr) return LoaderProblem(path);
  void* symbol = dlsym(handle, MESH_FACTORY_SYMBOL);
  if (symbol == nullptr) {
    return Wrong(
        "library " + path +
        " has no " MESH_FACTORY_SYMBOL
        ": write MESH_DEPLOYMENT(YourClass) once in it, outside of namespaces, and let no version script hide it");
  }
  const MeshFactory* factory = reinterpret_cast<MeshFactoryFunction>(symbol)();
  if (Status status = CheckFactory(factory, path); !status.ok()) return status;
  return factory;
}

Status CheckFactory(const MeshFactory* factory, const std::string& path) {
  if (factory == nullptr) return Wrong("library " + path + " has no factory: " MESH_FACTORY_SYMBOL " gives none");
  if (factory->abi != MESH_ABI_VERSION) {
    const bool known = factory->size >= offsetof(MeshFactory, create) && factory->version != nullptr;
    return Wrong("library " + path + " was compiled for version " + std::to_string(factory->abi) +
                 " of the interface (mesh " + (known ? factory->version : "?") + "), this replica speaks version " +
                 std::to_string(MESH_ABI_VERSION) +
                 " (mesh " MESH_VERSION "): compile it again with the headers of this mesh (`mesh sdk-path`)");
  }
  if (factory->size < sizeof(MeshFactory)) {
    return Wrong("library " + path + " has a factory of " + std::to_string(factory->size) + " bytes, needed are " +
                 std::to_string(sizeof(MeshFactory)) + ": use the macro MESH_DEPLOYMENT");
  }
  return {};
}

}  // namespace mesh::user
