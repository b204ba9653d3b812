#include "deployment/health_watch.h"

#include <pthread.h>

#include <utility>

#include "common/log.h"

namespace mesh::deployment {

using std::chrono::steady_clock;

HealthWatch::HealthWatch(std::function<Status()> check, HealthLimits limits)
    : check_(std::move(check)), limits_(limits), thread_([this] { Run(); }) {}

HealthWatch::~HealthWatch() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ending_ = true;
    changed_.notify_all();
  }
  thread_.join();
}

bool HealthWatch::was_well() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return was_well_;
}

std::string HealthWatch::Verdict() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (checking_ && steady_clock::now() - began_ > limits_.longest) {
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(limits_.longest).count();
    return "Health() has not returned for " + std::to_string(seconds) + " s";
  }
  return failures_ >= limits_.failures ? "Health() keeps failing: " + reason_ : "";
}

void HealthWatch::Run() {
  pthread_setname_np(pthread_self(), "user-health");
  std::unique_lock<std::mutex> lock(mutex_);
  while (!ending_) {
    checking_ = true;
    began_ = steady_clock::now();
    lock.unlock();
    const Status status = check_();
    if (!status.ok()) log::Warning("health check failed", {{"reason", status.message()}});
    lock.lock();
    checking_ = false;
    was_well_ = was_well_ || status.ok();
    failures_ = status.ok() ? 0 : failures_ + 1;
    reason_ = status.message();
    changed_.wait_for(lock, limits_.interval, [this] { return ending_; });
  }
}

}  // namespace mesh::deployment
