// The paths of the REST protocol. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace mesh::ingress {

struct Route {
  enum class Kind : std::uint8_t {
    kMetrics,
    kServerMetadata,
    kServerLive,
    kServerReady,
    kModelMetadata,
    kModelReady,
    kModelConfig,
    kModelStatistics,  // without a model: of all
    kModelInfer,
    kGenerate,
    kGenerateStream,
    kRepositoryIndex,
    kRepositoryModelLoad,
    kRepositoryModelUnload,
    kSystemSharedMemory,
    kCudaSharedMemory,
    kTraceSetting,  // without a model: of the server
    kLogSettings,
  };
  // Of shared memory.
  enum class Action : std::uint8_t { kStatus, kRegister, kUnregister };

  Kind kind = Kind::kServerMetadata;
  std::string model;
  std::string version;  // digits, or empty
  std::string region;   // empty: all
  std::string repository;
  Action action = Action::kStatus;
};

// Nullopt for what is none. Names may be percent-encoded.
std::optional<Route> FindRoute(std::string_view path);

}  // namespace mesh::ingress
