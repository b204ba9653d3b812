#include "backends/common/api.h"

#include <dlfcn.h>

#include <memory>
#include <string>

namespace mesh::backend {
namespace {

constexpr std::uint32_t kApiMajor = 1;

Api& MutableApi() {
  static Api bound;
  return bound;
}

struct CloseLibrary {
  void operator()(void* handle) const { dlclose(handle); }
};
using Library = std::unique_ptr<void, CloseLibrary>;

// The library that `address` is part of; null for none, or for the program itself.
Library LibraryOf(const void* address, std::string* path) {
  Dl_info info{};
  if (address == nullptr || dladdr(address, &info) == 0 || info.dli_fname == nullptr) {
    return nullptr;
  }
  *path = info.dli_fname;
  return Library(dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD));
}

void* Find(const Library& library, const char* name) {
  void* symbol = library != nullptr ? dlsym(library.get(), name) : nullptr;
  return symbol != nullptr ? symbol : dlsym(RTLD_DEFAULT, name);
}

}  // namespace

const Api& api() { return MutableApi(); }

Status BindApi(const void* caller) {
  std::string path = "the process";
  const Library library = LibraryOf(caller, &path);
  Api found;
#define MESH_FIND(name)                                                                                       \
  found.name = reinterpret_cast<decltype(found.name)>(Find(library, #name));                                  \
  if (found.name == nullptr) {                                                                                \
    /* What was found so far (errors come first) lets the caller report this very failure. */                 \
    MutableApi() = found;                                                                                     \
    return Status(Code::kUnimplemented, path + " has no " #name "; this backend needs Triton 2.51 or newer"); \
  }
  MESH_TRITON_FUNCTIONS(MESH_FIND)
#undef MESH_FIND
  MutableApi() = found;

  std::uint32_t major = 0;
  std::uint32_t minor = 0;
  if (TRITONSERVER_Error* error = found.TRITONBACKEND_ApiVersion(&major, &minor); error != nullptr) {
    found.TRITONSERVER_ErrorDelete(error);
    return {Code::kInternal, "Triton does not tell the version of its backend API"};
  }
  if (major != kApiMajor) {
    return {Code::kUnimplemented, "Triton's backend API has version " + std::to_string(major) + "." +
                                      std::to_string(minor) + ", this backend needs version 1"};
  }
  return {};
}

}  // namespace mesh::backend
