#include "triton/options.h"

#include <filesystem>
#include <system_error>

#include "triton/library.h"

namespace mesh::triton {
namespace {

namespace fs = std::filesystem;

// Server::Stop waits for everything itself. Triton's own count never ends when a model could not be loaded beside an
// older version of it (seen with 2.51), so it gets a moment only.
constexpr unsigned kTritonExitTimeoutS = 1;

Status CheckFolder(const char* what, const std::string& folder) {
  std::error_code error;
  if (fs::is_directory(folder, error)) return {};
  return {Code::kInvalidArgument, std::string(what) + " '" + folder + "' is not a folder that can be read"};
}

// Collects the first failure of a row of option setters.
class Setter {
 public:
  void operator()(TRITONSERVER_Error* error) {
    Status status = ToStatus(error);
    if (status_.ok() && !status.ok()) status_ = std::move(status);
  }
  [[nodiscard]] const Status& status() const { return status_; }

 private:
  Status status_;
};

void SetModels(const Api& api, TRITONSERVER_ServerOptions* raw, const ServerOptions& options, Setter* set) {
  (*set)(api.ServerOptionsSetServerId(raw, options.server_id.c_str()));
  (*set)(api.ServerOptionsSetModelRepositoryPath(raw, fs::absolute(options.repository).c_str()));
  // Each model is loaded by a call of its own, so that a bad one is known by name and reason and stops no other.
  (*set)(api.ServerOptionsSetModelControlMode(raw, TRITONSERVER_MODEL_CONTROL_EXPLICIT));
  (*set)(api.ServerOptionsSetExitOnError(raw, false));
  // Models complete their configuration from the model file.
  (*set)(api.ServerOptionsSetStrictModelConfig(raw, false));
  // Server::IsReady looks at the models itself: for Triton one that is on its way out counts as missing.
  (*set)(api.ServerOptionsSetStrictReadiness(raw, false));
  (*set)(api.ServerOptionsSetModelLoadThreadCount(raw, options.model_load_threads));
  // Triton leaves this number to chance (2.51): where memory was not zero, a bad model is loaded again without end.
  (*set)(api.ServerOptionsSetModelLoadRetryCount(raw, 0));
  if (!options.backend_directory.empty()) {
    (*set)(api.ServerOptionsSetBackendDirectory(raw, fs::absolute(options.backend_directory).c_str()));
  }
  for (const auto& [backend, settings] : options.backend_settings) {
    for (const auto& [setting, value] : settings) {
      (*set)(api.ServerOptionsSetBackendConfig(raw, backend.c_str(), setting.c_str(), value.c_str()));
    }
  }
}

// Only Triton's own cache in memory: one that is shared by processes would need their versions of models to be the
// same.
void SetCache(const Api& api, TRITONSERVER_ServerOptions* raw, const ServerOptions& options, Setter* set) {
  if (options.response_cache_bytes == 0) return;
  const std::string config = R"({"size":")" + std::to_string(options.response_cache_bytes) + R"("})";
  (*set)(api.ServerOptionsSetCacheDirectory(raw, fs::absolute(options.cache_directory).c_str()));
  (*set)(api.ServerOptionsSetCacheConfig(raw, "local", config.c_str()));
}

void SetRateLimiter(const Api& api, TRITONSERVER_ServerOptions* raw, const ServerOptions& options, Setter* set) {
  const bool on = options.rate_limiter.has_value();
  (*set)(
      api.ServerOptionsSetRateLimiterMode(raw, on ? TRITONSERVER_RATE_LIMIT_EXEC_COUNT : TRITONSERVER_RATE_LIMIT_OFF));
  if (!on) return;
  for (const RateLimiterResource& resource : *options.rate_limiter) {
    (*set)(api.ServerOptionsAddRateLimiterResource(raw, resource.name.c_str(), resource.count, resource.device));
  }
}

void SetProcess(const Api& api, TRITONSERVER_ServerOptions* raw, const ServerOptions& options, Setter* set) {
  (*set)(api.ServerOptionsSetExitTimeout(raw, kTritonExitTimeoutS));
  (*set)(api.ServerOptionsSetBufferManagerThreadCount(raw, options.buffer_manager_threads));
  (*set)(api.ServerOptionsSetPinnedMemoryPoolByteSize(raw, options.pinned_memory_pool_bytes));
  (*set)(api.ServerOptionsSetMetrics(raw, options.metrics));
  (*set)(api.ServerOptionsSetGpuMetrics(raw, options.metrics && options.gpu_metrics));
  // Its poller would wake a thread all the time for what the operating system tells anyway.
  (*set)(api.ServerOptionsSetCpuMetrics(raw, false));
  (*set)(api.ServerOptionsSetLogFormat(raw, TRITONSERVER_LOG_ISO8601));
  (*set)(api.ServerOptionsSetLogVerbose(raw, options.log_verbosity));
  (*set)(api.ServerOptionsSetLogInfo(raw, options.log_info));
  (*set)(api.ServerOptionsSetLogWarn(raw, options.log_warnings));
  (*set)(api.ServerOptionsSetLogError(raw, options.log_errors));
  if (!options.log_file.empty()) (*set)(api.ServerOptionsSetLogFile(raw, options.log_file.c_str()));
}

}  // namespace

Result<ServerOptionsHandle> MakeOptions(const ServerOptions& options) {
  if (Status status = CheckFolder("model repository", options.repository); !status.ok()) return status;
  if (!options.backend_directory.empty()) {
    if (Status status = CheckFolder("backend directory", options.backend_directory); !status.ok()) return status;
  }
  if (options.response_cache_bytes > 0) {
    const std::string folder = options.cache_directory + "/local";
    if (Status status = CheckFolder("response cache", folder); !status.ok()) return status;
  }
  const Api& api = GetApi();
  TRITONSERVER_ServerOptions* raw = nullptr;
  if (Status status = ToStatus(api.ServerOptionsNew(&raw)); !status.ok()) return status;
  ServerOptionsHandle handle(raw);
  Setter set;
  SetModels(api, raw, options, &set);
  SetCache(api, raw, options, &set);
  SetRateLimiter(api, raw, options, &set);
  SetProcess(api, raw, options, &set);
  if (!set.status().ok()) return set.status();
  return handle;
}

}  // namespace mesh::triton
