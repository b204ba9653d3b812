// Everything of a replica that answers requests, in the order in which it starts and, reversed, stops:
// Triton, the KServe service over gRPC and REST with health and reflection on an rpc::Server, the metrics on a port of
// their own.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "broker/pulling.h"
#include "common/metrics.h"
#include "common/status.h"
#include "deployment/replica_config.h"
#include "deployment/replica_report.h"
#include "ingress/instruments.h"
#include "ingress/rest_service.h"
#include "ingress/service.h"
#include "rpc/health.h"
#include "rpc/reflection.h"
#include "rpc/server.h"
#include "rpc/server_metrics.h"
#include "triton/server.h"
#include "user_code/user_code.h"

namespace mesh::deployment {

class ServingStack {
 public:
  // Loads the models and serves. The message of a failure is for the spec's author: "model digits: ...". `models` is
  // filled as far as it is known, also when it fails. `on_models` is told, on another thread, whenever a client may
  // have changed them.
  static Result<std::unique_ptr<ServingStack>> Start(const ReplicaConfig& config, const PreparedNode& node,
                                                     metrics::Registry& registry, std::vector<ModelState>* models,
                                                     std::function<void(std::vector<ModelState>)> on_models);
  ~ServingStack();  // Stop()
  ServingStack(const ServingStack&) = delete;
  ServingStack& operator=(const ServingStack&) = delete;

  [[nodiscard]] std::string address() const;  // as clients reach it
  [[nodiscard]] std::string metrics_address() const;
  [[nodiscard]] std::uint64_t in_flight() const { return service_->in_flight(); }
  // Times of the inference requests that were answered, streams not among them.
  [[nodiscard]] metrics::Histogram::Snapshot request_seconds() const {
    return service_->instruments()->infer.seconds();
  }
  // Of these: by the server's fault.
  [[nodiscard]] std::uint64_t failed_requests() const { return service_->instruments()->infer.failed(); }
  // Streams that ended, and of these those that did by the server's fault.
  [[nodiscard]] std::uint64_t streams() const {
    const metrics::Histogram::Snapshot seconds = service_->instruments()->stream.seconds();
    return seconds.cumulative.empty() ? 0 : seconds.cumulative.back();
  }
  [[nodiscard]] std::uint64_t failed_streams() const { return service_->instruments()->stream.failed(); }

  // Goes to another folder of models, as triton::Server::SwitchRepository does; `models` tells what serves then.
  Status Update(const std::string& repository, const std::vector<std::string>& wanted, std::vector<ModelState>* models);

  // The code of a deployment; without any it is always well, and takes no configuration. INVALID_ARGUMENT with what it
  // threw: it goes on as before.
  Status Reconfigure(const std::string& config);
  Status CheckHealth() { return code_ == nullptr ? Status() : code_->CheckHealth(); }
  // What everybody is told who asks for readiness.
  void SetHealthy(bool healthy);

  // From now on the replica asks the brokers of its application for work, until it drains. It serves also where it
  // cannot.
  void StartPulling();
  // Asks for nothing any more; what runs goes on.
  void StopPulling();

  // Refuses new requests, says so to everybody who asks (readiness, health, GOAWAY) and waits for the running ones.
  // True when all finished within the limit. Repeatable.
  bool Drain(std::chrono::milliseconds limit);
  // Ends what still runs. Repeatable. False when Triton holds requests for longer than its exit timeout: their answers
  // may still come, and count in the registry, which must stay then.
  bool Stop();

 private:
  ServingStack(const ReplicaConfig& config, metrics::Registry& registry) : config_(config), registry_(registry) {}
  Status LoadModels(const PreparedNode& node, std::vector<ModelState>* models);
  Status LoadCode(const PreparedNode& node, std::vector<ModelState>* models);
  [[nodiscard]] user::Options CodeOptions(const PreparedNode& node) const;
  bool StopTriton();
  Status ReadIndex(std::vector<ModelState>* models) const;
  Status Listen(std::function<void(std::vector<ModelState>)> on_models);
  Status ServeMetrics();
  [[nodiscard]] broker::PullingOptions PullingOptions() const;
  [[nodiscard]] ingress::ServiceOptions ServiceOptions(std::function<void(std::vector<ModelState>)> on_models) const;
  [[nodiscard]] Result<std::string> MetricsText() const;

  const ReplicaConfig& config_;
  metrics::Registry& registry_;
  std::unique_ptr<triton::Server> triton_;
  std::unique_ptr<user::UserCode> code_;
  std::unique_ptr<ingress::KServeService> service_;
  std::unique_ptr<ingress::RestService> rest_;
  std::unique_ptr<rpc::HealthService> health_;
  std::unique_ptr<rpc::ReflectionService> reflection_;
  std::unique_ptr<rpc::Server> server_;
  std::unique_ptr<rpc::ServerMetrics> rpc_metrics_;
  std::unique_ptr<rpc::Server> metrics_;
  std::unique_ptr<broker::Pulling> pulling_;  // null until it begins, and where there is no discovery
};

}  // namespace mesh::deployment
