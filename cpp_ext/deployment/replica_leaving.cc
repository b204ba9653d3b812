// How a replica leaves.
#include <algorithm>
#include <utility>

#include "common/log.h"
#include "deployment/replica_impl.h"

namespace mesh::deployment {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

namespace {

// After the endpoint has left discovery, watchers need a moment to hear of it; until then requests are still taken, so
// that clients that do not repeat are not refused.
constexpr milliseconds kLeaveTime{300};
constexpr milliseconds kDrainSlice{100};

}  // namespace

void Replica::Impl::Leave() {
  Step(ReplicaState::kDraining);
  bool finished = true;
  if (stack_ != nullptr) stack_->StopPulling();
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

bool Replica::Impl::DrainStack() {
  for (;;) {
    const milliseconds left = TimeLeft();
    if (stack_->Drain(std::min(left, kDrainSlice))) return true;
    if (left <= kDrainSlice) return false;
  }
}

void Replica::Impl::LingerAfterLeaving() {
  std::unique_lock<std::mutex> lock(mutex_);
  const auto until = steady_clock::now() + kLeaveTime;
  changed_.wait_until(lock, until, [this, until] { return *drain_until_ < until; });
}

void Replica::Impl::Release() {
  health_.reset();
  if (registered_gauge_ != 0) metrics_.Remove(registered_gauge_);
  std::shared_ptr<ServingStack> stack;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stack = std::exchange(stack_, nullptr);
  }
  // Triton's late answers count here, also while the process ends.
  if (stack != nullptr && !stack->Stop()) static_cast<void>(metrics_owner_.release());
}

milliseconds Replica::Impl::TimeLeft() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return std::max(std::chrono::duration_cast<milliseconds>(*drain_until_ - steady_clock::now()), milliseconds(0));
}

}  // namespace mesh::deployment
