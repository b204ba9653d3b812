// How a replica that runs goes to another revision.
#include <algorithm>
#include <exception>
#include <utility>

#include "common/log.h"
#include "deployment/replica_impl.h"

namespace mesh::deployment {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

void Replica::Impl::ApplyUpdate() {
  std::optional<ReplicaUpdate> update;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    update.swap(update_);
    updating_ = update.has_value();
  }
  if (!update) return;
  log::Info("update begins", {{"to_revision", update->revision}});
  const auto began = steady_clock::now();
  std::vector<ModelState> models;
  Status status;
  try {
    status = SwitchTo(*update, &models);
  } catch (const std::exception& error) {
    status = {Code::kInternal, std::string("the update ended with an exception: ") + error.what()};
  }
  if (EndUpdate()) return;
  NoteUpdate(*update, status, std::move(models));
  const double took_s = std::chrono::duration<double>(steady_clock::now() - began).count();
  if (status.ok()) {
    const Status logs = log::Configure(WithRevision(config_.log, update->revision));
    if (!logs.ok()) log::Warning("log names the revision before", {{"reason", logs.message()}});
    log::Info("update done", {{"to_revision", update->revision}, {"took_s", took_s}});
    return;
  }
  log::Error("update failed", {{"to_revision", update->revision}, {"reason", status.message()}});
  // What serves now is neither revision: another replica has to take over.
  if (status.code() == Code::kFailedPrecondition) Drain(config_.drain_timeout);
}

Status Replica::Impl::SwitchTo(const ReplicaUpdate& update, std::vector<ModelState>* models) {
  if (config_.code) return stack_->Reconfigure(update.config);
  std::vector<std::string> command = update.prepare_command;
  command.insert(command.end(), {"--in-use", repository_});
  const Result<PreparedNode> node = Prepare(std::move(command));
  if (!node.ok()) return {Code::kUnavailable, node.status().message()};
  if (draining()) return {};
  Status status = stack_->Update(node.value().repository_path, update.models, models);
  if (status.ok()) repository_ = node.value().repository_path;
  return status;
}

bool Replica::Impl::EndUpdate() {
  const std::lock_guard<std::mutex> lock(mutex_);
  updating_ = false;
  if (!drain_until_) return false;
  if (limit_after_update_) drain_until_ = steady_clock::now() + *limit_after_update_;
  return true;
}

void Replica::Impl::NoteUpdate(const ReplicaUpdate& update, const Status& status, std::vector<ModelState> models) {
  const std::lock_guard<std::mutex> lock(mutex_);
  view_.updating_to = update_ ? update_->revision : 0;
  view_.failed_revision = status.ok() ? 0 : update.revision;
  view_.failed_reason = status.message();
  if (!status.ok()) {
    ++view_.failed_updates;
    return;
  }
  view_.revision = update.revision;
  if (!models.empty()) view_.models = std::move(models);
  if (registrar_ != nullptr) registrar_->Update(EndpointJson(config_, view_, HostName(), "ready"));
}

}  // namespace mesh::deployment
