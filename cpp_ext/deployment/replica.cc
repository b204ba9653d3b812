#include "deployment/replica.h"

#include <pthread.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <utility>

#include "common/log.h"
#include "deployment/replica_impl.h"

namespace mesh::deployment {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

namespace {

constexpr milliseconds kHealthSlice{20};
constexpr milliseconds kHealthInterval{1000};

}  // namespace

void Replica::Impl::Start() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (started_) return;
  started_ = true;
  thread_ = std::thread([this] { Run(); });
}

std::string Replica::Impl::Report(const std::string& refused) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  ReplicaView view = view_;
  view.refused = refused;
  view.cpu_s = ReadProcessUsage().cpu_s;
  if (stack_ != nullptr) {
    view.in_flight = stack_->in_flight();
    view.request_seconds = stack_->request_seconds();
    view.failed_requests = stack_->failed_requests();
    view.streams = stack_->streams();
    view.failed_streams = stack_->failed_streams();
  }
  if (registrar_ != nullptr) {
    view.lease = registrar_->lease();
    view.registered = registrar_->registered();
    if (view.reason.empty() && view.state == ReplicaState::kReady) view.reason = registrar_->problem();
  }
  return ReportJson(view);
}

void Replica::Impl::Drain(milliseconds limit) {
  const auto end = steady_clock::now() + std::max(limit, milliseconds(0));
  const std::lock_guard<std::mutex> lock(mutex_);
  if (drain_until_ && *drain_until_ <= end) return;
  drain_until_ = end;
  if (updating_) {  // the thread is busy: it leaves when it is done, but clients should hear of it now
    limit_after_update_ = limit;
    if (registrar_ != nullptr) registrar_->Update(EndpointJson(config_, view_, HostName(), "draining"));
  }
  cancel_prepare_.store(true);
  changed_.notify_all();
}

Status Replica::Impl::Update(ReplicaUpdate update) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (update.id != config_.id || update.generation != config_.generation) {
    return {Code::kInvalidArgument, "the update is for replica " + update.id + " of generation " +
                                        std::to_string(update.generation) + ", this is " + config_.id + " of " +
                                        std::to_string(config_.generation)};
  }
  if (!config_.code && update.prepare_command.empty()) {
    return {Code::kInvalidArgument, "field 'prepareCommand' is missing"};
  }
  if (drain_until_ || view_.state == ReplicaState::kFailed) {
    return {Code::kUnavailable, std::string("the replica is ") + StateName(view_.state) + " and takes no update"};
  }
  const bool serves_it = view_.updating_to == 0 && update.revision == view_.revision;
  if (serves_it || update.revision == view_.updating_to) return {};
  view_.updating_to = update.revision;
  update_ = std::move(update);
  changed_.notify_all();
  return {};
}

void Replica::Impl::Run() {
  pthread_setname_np(pthread_self(), "replica");
  const Status ready = TryToBecomeReady();
  if (!ready.ok()) Fail(ready.message());
  while (WaitForWork()) ApplyUpdate();
  Leave();
}

Status Replica::Impl::TryToBecomeReady() {
  try {
    return BecomeReady();
  } catch (const std::exception& error) {  // out of memory, no thread to be had
    return {Code::kInternal, std::string("the start ended with an exception: ") + error.what()};
  }
}

Status Replica::Impl::BecomeReady() {
  if (!config_status_.ok()) return config_status_;
  Status status = log::Configure(config_.log);
  if (!status.ok()) return status;
  log::Info("replica starts", {{"pid", ProcessId()}, {"cluster", config_.cluster}});
  const auto began = steady_clock::now();
  Result<PreparedNode> node = Prepare(config_.prepare_command);
  if (!node.ok()) return node.status();
  if (draining()) return {};
  Step(ReplicaState::kLoading);
  status = Load(node.value());
  if (!status.ok() || draining()) return status;
  repository_ = node.value().repository_path;
  ApplyUpdate();  // of a process that was started again: it should not serve what is out of date
  if (draining()) return {};
  WaitHealthy();
  if (draining()) return {};
  Register();
  stack_->StartPulling();
  Step(ReplicaState::kReady);
  log::Info("replica ready", {{"address", AddressOf()},
                              {"took_s", std::chrono::duration<double>(steady_clock::now() - began).count()},
                              {"busy_poll_us", std::int64_t{config_.busy_poll.count()}}});
  return {};
}

Result<PreparedNode> Replica::Impl::Prepare(std::vector<std::string> arguments) {
  Command command;
  command.arguments = std::move(arguments);
  command.cancelled = &cancel_prepare_;
  const Result<CommandOutcome> ran = RunCommand(command);
  if (!ran.ok()) return ran.status();
  const CommandOutcome& outcome = ran.value();
  if (outcome.cancelled) return PreparedNode();
  if (outcome.timed_out) return Status(Code::kDeadlineExceeded, "preparing the node took too long and was ended");
  if (outcome.exit_code != 0) {
    const std::string why = LastLine(outcome.errors);
    return Status(Code::kFailedPrecondition,
                  "preparing the node failed: " +
                      (why.empty() ? "exit code " + std::to_string(outcome.exit_code) + " without a reason" : why));
  }
  return ParsePreparedNode(LastLine(outcome.output));
}

Status Replica::Impl::Load(const PreparedNode& node) {
  for (const auto& [name, value] : node.env) setenv(name.c_str(), value.c_str(), 1);
  std::vector<ModelState> models;
  Result<std::unique_ptr<ServingStack>> started = ServingStack::Start(
      config_, node, metrics_, &models, [this](std::vector<ModelState> changed) { SetModels(std::move(changed)); });
  const std::lock_guard<std::mutex> lock(mutex_);
  if (view_.models.empty()) view_.models = std::move(models);  // a client may have changed them by now
  if (!started.ok()) return started.status();
  stack_ = std::move(started).value();
  view_.address = stack_->address();
  view_.metrics_address = stack_->metrics_address();
  return {};
}

void Replica::Impl::Register() {
  if (config_.etcd.endpoints.empty()) {
    log::Warning("no etcd endpoint is configured: the replica is not in discovery");
    return;
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  registrar_ = std::make_unique<registry::Registrar>(config_.etcd, EndpointKey(config_),
                                                     EndpointJson(config_, view_, HostName(), "ready"));
  registered_gauge_ = metrics_.AddGauge("mesh_replica_registered", "1 while the endpoint is in discovery", {},
                                        [registrar = registrar_.get()] { return registrar->registered() ? 1 : 0; });
  registrar_->Start();
}

void Replica::Impl::SetModels(std::vector<ModelState> models) {
  const std::lock_guard<std::mutex> lock(mutex_);
  view_.models = std::move(models);
  if (registrar_ != nullptr) registrar_->Update(EndpointJson(config_, view_, HostName(), "ready"));
}

void Replica::Impl::WaitHealthy() {
  if (!config_.code) return;
  health_ = std::make_unique<HealthWatch>([this] { return stack_->CheckHealth(); });
  stack_->SetHealthy(false);
  std::unique_lock<std::mutex> lock(mutex_);
  while (!drain_until_ && !health_->was_well()) changed_.wait_for(lock, kHealthSlice);
  lock.unlock();
  stack_->SetHealthy(true);
}

bool Replica::Impl::WaitForWork() {
  std::unique_lock<std::mutex> lock(mutex_);
  const auto work = [this] { return drain_until_.has_value() || update_.has_value(); };
  if (health_ == nullptr) {
    changed_.wait(lock, work);
  } else {
    while (!changed_.wait_for(lock, kHealthInterval, work)) {
      lock.unlock();
      TakeVerdict(health_->Verdict());
      lock.lock();
    }
  }
  return !drain_until_.has_value();
}

void Replica::Impl::TakeVerdict(const std::string& reason) {
  const ReplicaState now = state();
  const ReplicaState next = reason.empty() ? ReplicaState::kReady : ReplicaState::kUnhealthy;
  if (now == next || (now != ReplicaState::kReady && now != ReplicaState::kUnhealthy)) return;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    view_.reason = reason;
  }
  stack_->SetHealthy(reason.empty());
  if (!reason.empty()) log::Error("replica unhealthy", {{"reason", reason}});
  Step(next);
}

void Replica::Impl::Fail(const std::string& reason) {
  log::Error("replica failed", {{"reason", reason}});
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    view_.reason = reason;
  }
  Step(ReplicaState::kFailed);
}

void Replica::Impl::Step(ReplicaState next) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!MayFollow(view_.state, next)) {
      log::Error("state transition refused", {{"from", StateName(view_.state)}, {"to", StateName(next)}});
      return;
    }
    view_.state = next;
  }
  log::Debug("state entered", {{"state", StateName(next)}});
  if (on_change_) on_change_(next);
}

Replica::Replica(const Result<ReplicaConfig>& config, OnChange on_change)
    : impl_(std::make_unique<Impl>(config, std::move(on_change))) {}
Replica::~Replica() = default;
void Replica::Start() { impl_->Start(); }
std::string Replica::Report(const std::string& refused) const { return impl_->Report(refused); }
ReplicaState Replica::state() const { return impl_->state(); }
void Replica::Drain(std::chrono::milliseconds limit) { impl_->Drain(limit); }
Status Replica::Update(ReplicaUpdate update) { return impl_->Update(std::move(update)); }
void Replica::Stop() { impl_->Stop(); }

}  // namespace mesh::deployment
