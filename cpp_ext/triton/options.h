// What a Triton server is started with.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/status.h"
#include "triton/handles.h"

namespace mesh::triton {

struct RateLimiterResource {
  std::string name;
  std::size_t count = 0;
  int device = -1;  // -1: so many on each device
};

struct ServerOptions {
  std::string library;              // as for FindLibrary
  std::string repository;           // folder of model folders
  std::string backend_directory;    // folder of backend folders; empty: <library folder>/../backends
  std::vector<std::string> models;  // those to load; empty: every model of the repository
  std::map<std::string, std::map<std::string, std::string>> backend_settings;  // backend → setting → value
  // Answers of the models that ask for it are kept in this much memory of the process; 0: no model's are.
  std::uint64_t response_cache_bytes = 0;
  std::string cache_directory;  // folder of cache folders; empty: <library folder>/../caches
  // Instances run when the resources that their models want of these are free, those of a higher priority more often.
  // Without it what models say of both is ignored.
  std::optional<std::vector<RateLimiterResource>> rate_limiter;
  // The process also runs the code of a deployment: there may be no models, and calls are known by their numbers.
  bool runs_code = false;
  std::string server_id = "triton";            // "name" in the server's metadata
  unsigned exit_timeout_s = 30;                // Stop waits this long for running requests
  unsigned model_load_threads = 1;             // models loaded at a time
  unsigned buffer_manager_threads = 0;         // 0: none, Triton copies on its backend threads
  std::uint64_t pinned_memory_pool_bytes = 0;  // only of use with GPUs
  bool metrics = true;
  bool gpu_metrics = false;  // needs DCGM and a GPU
  // Logging is Triton's own and one per process: its last starter wins.
  int log_verbosity = 0;  // 0: no verbose lines
  bool log_info = true;
  bool log_warnings = true;
  bool log_errors = true;
  std::string log_file;  // empty: standard error
};

// Checks the folders (INVALID_ARGUMENT names the bad one) and makes Triton's own options. After LoadLibrary.
Result<ServerOptionsHandle> MakeOptions(const ServerOptions& options);

}  // namespace mesh::triton
