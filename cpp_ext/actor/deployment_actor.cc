#include "actor/deployment_actor.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <exception>

#include "actor/ray_node.h"
#include "actor/termination.h"
#include "common/host.h"
#include "common/log.h"
#include "deployment/replica_report.h"

namespace mesh::actor {
namespace {

constexpr double kMaxDrainS = 24 * 3600;

std::string BrokenReport(const std::string& reason) {
  deployment::ReplicaView view;
  view.state = deployment::ReplicaState::kFailed;
  view.reason = reason;
  view.pid = ProcessId();
  return deployment::ReportJson(view);
}

}  // namespace

DeploymentActor::DeploymentActor(const std::string& config_json) {
  try {
    Start(config_json);
  } catch (const std::exception& error) {
    broken_ = std::string("the replica cannot start: ") + error.what();
    log::Error("replica cannot start", {{"error", error.what()}});
  }
}

void DeploymentActor::Start(const std::string& config_json) {
  const Result<deployment::ReplicaConfig> config = deployment::ParseReplicaConfig(config_json, NodeAddress());
  replica_ = std::make_unique<deployment::Replica>(config, [this](deployment::ReplicaState state) {
    if (state == deployment::ReplicaState::kDrained && terminating_.load()) EndByTermination();
  });
  const auto limit = config.ok() ? config.value().drain_timeout : std::chrono::milliseconds(0);
  const mesh::Status watched = WatchTermination([this, limit](int count) {
    if (terminating_.exchange(true) && count < 2) return;
    log::Info("SIGTERM: the replica leaves", {{"count", count}});
    replica_->Drain(count > 1 ? std::chrono::milliseconds(0) : limit);
    if (replica_->state() == deployment::ReplicaState::kDrained) EndByTermination();  // it was drained before
  });
  if (!watched.ok()) log::Warning("SIGTERM will not drain the replica", {{"error", watched.ToString()}});
  replica_->Start();
}

std::string DeploymentActor::Report(const char* method, const std::string& refused) {
  try {
    return broken_.empty() ? replica_->Report(refused) : BrokenReport(broken_);
  } catch (const std::exception& error) {
    log::Error("actor method failed", {{"method", method}, {"error", error.what()}});
    return "{}";
  }
}

std::string DeploymentActor::Status() { return Report("Status"); }

std::string DeploymentActor::Drain(double limit_s) {
  const double bounded = std::isfinite(limit_s) ? std::clamp(limit_s, 0.0, kMaxDrainS) : 0.0;
  if (broken_.empty()) replica_->Drain(std::chrono::milliseconds(static_cast<std::int64_t>(bounded * 1000)));
  return Report("Drain");
}

std::string DeploymentActor::Update(const std::string& update_json) {
  if (!broken_.empty()) return Report("Update");
  Result<deployment::ReplicaUpdate> update = deployment::ParseReplicaUpdate(update_json);
  const mesh::Status status = update.ok() ? replica_->Update(std::move(update).value()) : update.status();
  return Report("Update", status.message());
}

std::string DeploymentActor::Stop() {
  if (broken_.empty()) replica_->Stop();
  return Report("Stop");
}

}  // namespace mesh::actor
