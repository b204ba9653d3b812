// What a replica is made of. Its life runs on one thread (replica.cc, replica_updating.cc, replica_leaving.cc); orders
// and looks come from any.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/host.h"
#include "common/metrics.h"
#include "common/process.h"
#include "deployment/health_watch.h"
#include "deployment/replica.h"
#include "deployment/replica_report.h"
#include "deployment/serving_stack.h"
#include "registry/registrar.h"

namespace mesh::deployment {

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

  void Start();
  [[nodiscard]] std::string Report(const std::string& refused) const;
  [[nodiscard]] ReplicaState state() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return view_.state;
  }
  void Drain(std::chrono::milliseconds limit);
  Status Update(ReplicaUpdate update);
  void Stop() {
    Drain(std::chrono::milliseconds(0));
    const std::lock_guard<std::mutex> joining(join_mutex_);
    if (thread_.joinable()) thread_.join();
  }

 private:
  void Run();
  Status TryToBecomeReady();
  Status BecomeReady();
  Result<PreparedNode> Prepare(std::vector<std::string> arguments);
  Status Load(const PreparedNode& node);
  void Register();
  // On a thread of the stack, which ends before the registrar and this object do.
  void SetModels(std::vector<ModelState> models);
  // Until the deployment's own code is well for the first time; the master ends a replica for which that takes too
  // long.
  void WaitHealthy();
  // False when the replica is to leave, true when there is an update to apply.
  bool WaitForWork();
  void TakeVerdict(const std::string& reason);
  void ApplyUpdate();
  Status SwitchTo(const ReplicaUpdate& update, std::vector<ModelState>* models);
  // True when the replica was told to leave meanwhile. The limit for what runs counts from now on: until now clients
  // may have been sent here.
  bool EndUpdate();
  void NoteUpdate(const ReplicaUpdate& update, const Status& status, std::vector<ModelState> models);
  // Leave discovery, stop accepting, finish what runs, release: always in this order.
  void Leave();
  // In slices, because a second Drain may shorten the limit in between.
  bool DrainStack();
  void LingerAfterLeaving();
  void Release();
  std::chrono::milliseconds TimeLeft() const;
  bool draining() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return drain_until_.has_value();
  }
  std::string AddressOf() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return view_.address;
  }
  void Fail(const std::string& reason);
  // The one door for transitions.
  void Step(ReplicaState next);

  const ReplicaConfig config_;
  const Status config_status_;
  const OnChange on_change_;
  std::unique_ptr<metrics::Registry> metrics_owner_ = std::make_unique<metrics::Registry>();
  metrics::Registry& metrics_ = *metrics_owner_;
  std::atomic<bool> cancel_prepare_{false};

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  ReplicaView view_;                                                  // guarded by mutex_
  std::optional<std::chrono::steady_clock::time_point> drain_until_;  // guarded by mutex_
  std::optional<ReplicaUpdate> update_;                               // guarded by mutex_; waits to be applied
  bool updating_ = false;                                             // guarded by mutex_
  std::optional<std::chrono::milliseconds> limit_after_update_;  // guarded by mutex_; of a drain that came meanwhile
  bool started_ = false;                                         // guarded by mutex_
  std::shared_ptr<ServingStack> stack_;             // written under mutex_ by the thread, which reads it without
  std::unique_ptr<registry::Registrar> registrar_;  // as stack_
  std::unique_ptr<HealthWatch> health_;             // of the thread; null without code of a deployment
  std::uint64_t registered_gauge_ = 0;              // of the thread
  std::string repository_;                          // of the thread; the folder that serves
  std::mutex join_mutex_;
  std::thread thread_;  // joined under join_mutex_
};

}  // namespace mesh::deployment
