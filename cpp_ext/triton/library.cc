#include "triton/library.h"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <mutex>
#include <set>
#include <system_error>
#include <vector>

#include "triton/elf.h"

namespace mesh::triton {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSystemFolder = "/opt/tritonserver/lib";

std::atomic<const Api*> g_api{nullptr};

std::mutex& LoadMutex() {
  static std::mutex mutex;
  return mutex;
}

bool LooksLikeLibrary(const fs::path& file) {
  const std::string name = file.filename().string();
  return name.rfind("libtritonserver", 0) == 0 && name.find(".so") != std::string::npos;
}

Status LoaderError(const fs::path& file) {
  const char* reason = dlerror();
  return {Code::kFailedPrecondition,
          "cannot load " + file.string() + ": " + (reason == nullptr ? "unknown error" : reason)};
}

// Opens, depth first, what `file` needs and what lies in `folder`. The libraries of the wheel lie beside each other
// without a run path, and LD_LIBRARY_PATH cannot be changed from inside a process; but a library that is loaded already
// satisfies a need of the same name. What lies elsewhere is left to the system's own search.
Status OpenNeighbours(const fs::path& file, const fs::path& folder, std::set<std::string>* opened) {
  Result<std::vector<std::string>> needed = NeededLibraries(file.string());
  if (!needed.ok()) return needed.status();
  for (const std::string& name : needed.value()) {
    const fs::path neighbour = folder / name;
    std::error_code ignored;
    if (!fs::exists(neighbour, ignored) || !opened->insert(name).second) continue;
    if (Status status = OpenNeighbours(neighbour, folder, opened); !status.ok()) return status;
    if (dlopen(neighbour.c_str(), RTLD_NOW | RTLD_LOCAL) == nullptr) return LoaderError(neighbour);
  }
  return {};
}

Status ResolveFunctions(void* handle, Api* api) {
  std::string missing;
  const auto find = [&](const char* name) {
    void* symbol = dlsym(handle, name);
    if (symbol == nullptr) missing += missing.empty() ? name : std::string(", ") + name;
    return symbol;
  };
#define MESH_TRITON_RESOLVE(name) api->name = reinterpret_cast<decltype(api->name)>(find("TRITONSERVER_" #name));
  MESH_TRITON_FUNCTIONS(MESH_TRITON_RESOLVE)
#undef MESH_TRITON_RESOLVE
  if (missing.empty()) return {};
  return {Code::kFailedPrecondition, api->path + " is not a Triton server library that fits: it lacks " + missing};
}

Status CheckVersion(Api* api) {
  std::uint32_t major = 0;
  TRITONSERVER_Error* error = api->ApiVersion(&major, &api->minor_version);
  if (error != nullptr) {
    const std::string message = api->ErrorMessage(error);
    api->ErrorDelete(error);
    return {Code::kFailedPrecondition, api->path + " does not tell its API version: " + message};
  }
  if (major == TRITONSERVER_API_VERSION_MAJOR && api->minor_version >= TRITONSERVER_API_VERSION_MINOR) return {};
  return {Code::kFailedPrecondition, api->path + " has API version " + std::to_string(major) + "." +
                                         std::to_string(api->minor_version) + ", needed is " +
                                         std::to_string(TRITONSERVER_API_VERSION_MAJOR) + "." +
                                         std::to_string(TRITONSERVER_API_VERSION_MINOR) + " or newer of that major"};
}

}  // namespace

Result<std::string> FindLibrary(const std::string& hint) {
  const fs::path place = hint.empty() ? fs::path(kSystemFolder) : fs::path(hint);
  std::error_code error;
  if (fs::is_regular_file(place, error)) return fs::canonical(place, error).string();
  std::vector<std::string> found;
  for (const fs::directory_entry& entry : fs::directory_iterator(place, error)) {
    if (LooksLikeLibrary(entry.path())) found.push_back(fs::canonical(entry.path(), error).string());
  }
  if (!found.empty()) return *std::min_element(found.begin(), found.end());
  return Status(Code::kNotFound, "no libtritonserver*.so at " + place.string() +
                                     ": give the file or its folder, install the wheel nvidia-pytriton, or install "
                                     "Triton under /opt/tritonserver");
}

Status LoadLibrary(const std::string& hint) {
  const std::lock_guard<std::mutex> lock(LoadMutex());
  Result<std::string> path = FindLibrary(hint);
  if (!path.ok()) return path.status();
  if (const Api* loaded = g_api.load(); loaded != nullptr) {
    if (loaded->path == path.value()) return {};
    return {Code::kFailedPrecondition, "this process has loaded " + loaded->path + " already and cannot load " +
                                           path.value() + " beside it; use another process"};
  }
  const fs::path file = path.value();
  std::set<std::string> opened;
  if (Status status = OpenNeighbours(file, file.parent_path(), &opened); !status.ok()) return status;
  void* handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return LoaderError(file);
  auto api = std::make_unique<Api>();
  api->path = path.value();
  if (Status status = ResolveFunctions(handle, api.get()); !status.ok()) return status;
  if (Status status = CheckVersion(api.get()); !status.ok()) return status;
  g_api.store(api.release());  // lives as long as the library: until the process ends
  return {};
}

Status OpenDependencies(const std::string& file) {
  const std::lock_guard<std::mutex> lock(LoadMutex());
  std::set<std::string> opened;
  return OpenNeighbours(file, fs::path(GetApi().path).parent_path(), &opened);
}

const Api& GetApi() {
  const Api* api = g_api.load(std::memory_order_acquire);
  if (api == nullptr) {
    std::fputs("mesh::triton::GetApi() before LoadLibrary()\n", stderr);
    std::abort();
  }
  return *api;
}

}  // namespace mesh::triton
