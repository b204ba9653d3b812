// inference.GRPCInferenceService (KServe v2, Open Inference Protocol) over an embedded Triton.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "common/metrics.h"
#include "ingress/instruments.h"
#include "ingress/log_settings.h"
#include "ingress/repository_control.h"
#include "ingress/shared_memory.h"
#include "ingress/stream_infer.h"
#include "rpc/server.h"
#include "triton/server.h"

namespace mesh::ingress {

struct ServiceOptions {
  ModelControl model_control = ModelControl::kNone;
  std::string trace_file;  // as for TraceSettings
  // Inference requests that run or wait at one time, of all models and protocols; more are answered RESOURCE_EXHAUSTED
  // (HTTP: 429) at once. 0: no limit.
  std::uint64_t max_requests = 0;
  // Told, on a thread of the service, whenever a client may have changed the states of models.
  std::function<void()> on_models_changed = [] {};
};

// Every method of the service, answered as `tritonserver` does:
//
//   ModelInfer                              infer_call
//   ModelStreamInfer                        stream_infer
//   RepositoryModelLoad, -Unload            repository_methods over repository_control
//   TraceSetting, LogSettings               settings_methods over trace_settings, log_settings
//   System- and CudaSharedMemory*           shared_memory_methods over shared_memory
//   Server*, ModelReady, -Metadata, -Config,
//   -Statistics, RepositoryIndex            here: Triton's JSON through control_tables
class KServeService {
 public:
  // The server and the registry must live longer than the service; the service must live until the rpc::Server it is
  // registered with was stopped.
  KServeService(triton::Server& triton, metrics::Registry& registry, ServiceOptions options = {});
  ~KServeService();
  KServeService(const KServeService&) = delete;
  KServeService& operator=(const KServeService&) = delete;

  void Register(rpc::Server& server);  // before its Start

  // A request that has come another way than by this service's server. Answers `call` as ModelInfer does, or, of a
  // model that may answer any number of times, as ModelStreamInfer: then it asks `call` for its messages, which must be
  // that request alone. A status that is not OK: it was refused, nothing of it has begun, and `call` is not used.
  Status Take(const std::shared_ptr<rpc::ServerCall>& call, const rpc::Slice& request);

  // Name, version and extensions as JSON; of Triton's extensions only those that are offered here.
  [[nodiscard]] Result<std::string> MetadataJson() const;

  // From now on ServerReady is false and new requests are answered UNAVAILABLE. Those that run go on, and streams end
  // as soon as theirs have. Calls that wait to load or unload a model are answered UNAVAILABLE too. Thread-safe.
  void SetDraining();
  [[nodiscard]] bool draining() const { return draining_.load(std::memory_order_relaxed); }
  // Whether new requests are welcome, as readiness probes are told.
  [[nodiscard]] bool ready() const {
    return !draining() && healthy_.load(std::memory_order_relaxed) && triton_.IsReady();
  }
  // Whether the code that runs behind it is well; requests are answered either way. Thread-safe.
  void SetHealthy(bool healthy) { healthy_.store(healthy, std::memory_order_relaxed); }
  // What other protocols share with it.
  [[nodiscard]] triton::Server& triton() const { return triton_; }
  [[nodiscard]] SharedMemory& shared_memory() { return shared_memory_; }
  [[nodiscard]] LogSettings& logs() { return logs_; }
  [[nodiscard]] RepositoryControl& repository() { return repository_; }
  [[nodiscard]] const std::shared_ptr<Instruments>& instruments() const { return instruments_; }
  // Requests that were accepted and are not answered yet.
  [[nodiscard]] std::uint64_t in_flight() const;

 private:
  using Handler = Result<std::string> (KServeService::*)(std::string_view request) const;

  void AddControl(rpc::Server& server, const std::string& method, Handler handler);
  void ModelInfer(std::shared_ptr<rpc::ServerCall> call, rpc::Slice request);
  // Whether one more request is let in; one that is not has been counted and logged.
  Status Admit(const rpc::ServerCall& call);
  [[nodiscard]] bool IsDecoupled(std::string_view request) const;

  Result<std::string> ServerLive(std::string_view request) const;
  Result<std::string> ServerReady(std::string_view request) const;
  Result<std::string> ServerMetadata(std::string_view request) const;
  Result<std::string> ModelReady(std::string_view request) const;
  Result<std::string> ModelMetadata(std::string_view request) const;
  Result<std::string> ModelConfig(std::string_view request) const;
  Result<std::string> ModelStatistics(std::string_view request) const;
  Result<std::string> RepositoryIndex(std::string_view request) const;

  triton::Server& triton_;
  std::shared_ptr<Instruments> instruments_;
  SharedMemory shared_memory_;
  LogSettings logs_;
  const std::shared_ptr<OpenStreams> streams_ = std::make_shared<OpenStreams>();
  std::uint64_t in_flight_gauge_ = 0;
  std::uint64_t waiting_gauge_ = 0;
  std::atomic<bool> draining_{false};
  std::atomic<bool> healthy_{true};
  const ModelControl model_control_;
  RepositoryControl repository_;  // last: its thread ends first
};

}  // namespace mesh::ingress
