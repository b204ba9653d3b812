#include "deployment/replica.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "common/host.h"
#include "common/log.h"
#include "common/metrics.h"
#include "common/process.h"
#include "deployment/replica_report.h"
#include "deployment/serving_stack.h"
#include "registry/registrar.h"

namespace mesh::deployment {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

// After the endpoint has left discovery, watchers need a moment to hear of it; until then requests are still taken, so
// that clients that do not repeat are not refused.
constexpr milliseconds kLeaveTime{300};
constexpr milliseconds kDrainSlice{100};

}  // namespace

class Replica::Impl {
 public:
  Impl(const Result<ReplicaConfig>& config, OnChange on_change)
      : config_(config.ok() ? config.value() : ReplicaConfig()),
        config_status_(config.status()),
        on_change_(std::move(on_change)) {
    view_.id = config_.id;
    view_.revision = config_.revision;
    view_.pid = ProcessId();
    AddProcessMetrics(metrics_);
  }

  ~Impl() { Stop(); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  void Start() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (started_) return;
    started_ = true;
    thread_ = std::thread([this] { Run(); });
  }

  [[nodiscard]] std::string Report(const std::string& refused) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    ReplicaView view = view_;
    view.refused = refused;
    view.cpu_s = ReadProcessUsage().cpu_s;
    if (stack_ != nullptr) {
      view.in_flight = stack_->in_flight();
      view.request_seconds = stack_->request_seconds();
    }
    if (registrar_ != nullptr) {
      view.lease = registrar_->lease();
      view.registered = registrar_->registered();
      if (view.reason.empty() && view.state == ReplicaState::kReady) view.reason = registrar_->problem();
    }
    return ReportJson(view);
  }

  [[nodiscard]] ReplicaState state() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return view_.state;
  }

  void Drain(milliseconds limit) {
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

  Status Update(ReplicaUpdate update) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (update.id != config_.id || update.generation != config_.generation) {
      return {Code::kInvalidArgument, "the update is for replica " + update.id + " of generation " +
                                          std::to_string(update.generation) + ", this is " + config_.id + " of " +
                                          std::to_string(config_.generation)};
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

  void Stop() {
    Drain(milliseconds(0));
    const std::lock_guard<std::mutex> joining(join_mutex_);
    if (thread_.joinable()) thread_.join();
  }

 private:
  void Run() {
    pthread_setname_np(pthread_self(), "replica");
    const Status ready = TryToBecomeReady();
    if (!ready.ok()) Fail(ready.message());
    while (WaitForWork()) ApplyUpdate();
    Leave();
  }

  Status TryToBecomeReady() {
    try {
      return BecomeReady();
    } catch (const std::exception& error) {  // out of memory, no thread to be had
      return {Code::kInternal, std::string("the start ended with an exception: ") + error.what()};
    }
  }

  Status BecomeReady() {
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
    Register();
    Step(ReplicaState::kReady);
    log::Info("replica ready", {{"address", AddressOf()},
                                {"took_s", std::chrono::duration<double>(steady_clock::now() - began).count()}});
    return {};
  }

  Result<PreparedNode> Prepare(std::vector<std::string> arguments) {
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

  Status Load(const PreparedNode& node) {
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

  void Register() {
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

  // On a thread of the stack, which ends before the registrar and this object do.
  void SetModels(std::vector<ModelState> models) {
    const std::lock_guard<std::mutex> lock(mutex_);
    view_.models = std::move(models);
    if (registrar_ != nullptr) registrar_->Update(EndpointJson(config_, view_, HostName(), "ready"));
  }

  // False when the replica is to leave, true when there is an update to apply.
  bool WaitForWork() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return drain_until_.has_value() || update_.has_value(); });
    return !drain_until_.has_value();
  }

  void ApplyUpdate() {
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

  Status SwitchTo(const ReplicaUpdate& update, std::vector<ModelState>* models) {
    std::vector<std::string> command = update.prepare_command;
    command.insert(command.end(), {"--in-use", repository_});
    const Result<PreparedNode> node = Prepare(std::move(command));
    if (!node.ok()) return {Code::kUnavailable, node.status().message()};
    if (draining()) return {};
    Status status = stack_->Update(node.value().repository_path, update.models, models);
    if (status.ok()) repository_ = node.value().repository_path;
    return status;
  }

  // True when the replica was told to leave meanwhile. The limit for what runs counts from now on: until now clients
  // may have been sent here.
  bool EndUpdate() {
    const std::lock_guard<std::mutex> lock(mutex_);
    updating_ = false;
    if (!drain_until_) return false;
    if (limit_after_update_) drain_until_ = steady_clock::now() + *limit_after_update_;
    return true;
  }

  void NoteUpdate(const ReplicaUpdate& update, const Status& status, std::vector<ModelState> models) {
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

  // Leave discovery, stop accepting, finish what runs, release: always in this order.
  void Leave() {
    Step(ReplicaState::kDraining);
    bool finished = true;
    if (registrar_ != nullptr) {
      const bool listed = registrar_->registered();
      registrar_->Withdraw();
      if (listed) LingerAfterLeaving();
    }
    if (stack_ != nullptr) finished = DrainStack();
    if (finished) {
      log::Info("replica drained");
    } else {
      log::Warning("replica drained with requests cut off", {{"in_flight", stack_->in_flight()}});
    }
    Step(ReplicaState::kDrained);
    Release();
  }

  // In slices, because a second Drain may shorten the limit in between.
  bool DrainStack() {
    for (;;) {
      const milliseconds left = TimeLeft();
      if (stack_->Drain(std::min(left, kDrainSlice))) return true;
      if (left <= kDrainSlice) return false;
    }
  }

  void LingerAfterLeaving() {
    std::unique_lock<std::mutex> lock(mutex_);
    const auto until = steady_clock::now() + kLeaveTime;
    changed_.wait_until(lock, until, [this, until] { return *drain_until_ < until; });
  }

  void Release() {
    if (registered_gauge_ != 0) metrics_.Remove(registered_gauge_);
    std::shared_ptr<ServingStack> stack;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stack = std::exchange(stack_, nullptr);
    }
    // Triton's late answers count here, also while the process ends.
    if (stack != nullptr && !stack->Stop()) static_cast<void>(metrics_owner_.release());
  }

  milliseconds TimeLeft() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return std::max(std::chrono::duration_cast<milliseconds>(*drain_until_ - steady_clock::now()), milliseconds(0));
  }

  bool draining() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return drain_until_.has_value();
  }

  std::string AddressOf() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return view_.address;
  }

  void Fail(const std::string& reason) {
    log::Error("replica failed", {{"reason", reason}});
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      view_.reason = reason;
    }
    Step(ReplicaState::kFailed);
  }

  // The one door for transitions.
  void Step(ReplicaState next) {
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

  const ReplicaConfig config_;
  const Status config_status_;
  const OnChange on_change_;
  std::unique_ptr<metrics::Registry> metrics_owner_ = std::make_unique<metrics::Registry>();
  metrics::Registry& metrics_ = *metrics_owner_;
  std::atomic<bool> cancel_prepare_{false};

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  ReplicaView view_;                                     // guarded by mutex_
  std::optional<steady_clock::time_point> drain_until_;  // guarded by mutex_
  std::optional<ReplicaUpdate> update_;                  // guarded by mutex_; waits to be applied
  bool updating_ = false;                                // guarded by mutex_
  std::optional<milliseconds> limit_after_update_;       // guarded by mutex_; of a drain that came meanwhile
  bool started_ = false;                                 // guarded by mutex_
  std::shared_ptr<ServingStack> stack_;                  // written under mutex_ by the thread, which reads it without
  std::unique_ptr<registry::Registrar> registrar_;       // as stack_
  std::uint64_t registered_gauge_ = 0;                   // of the thread
  std::string repository_;                               // of the thread; the folder that serves
  std::mutex join_mutex_;
  std::thread thread_;  // joined under join_mutex_
};

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
