// Asks the code of a deployment every second whether it is well, on a thread of its own: it may block.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "common/status.h"

namespace mesh::deployment {

struct HealthLimits {
  std::chrono::milliseconds interval{1000};
  std::chrono::milliseconds longest{15000};  // without an answer
  int failures = 3;                          // in a row
};

// Thread-safe.
class HealthWatch {
 public:
  explicit HealthWatch(std::function<Status()> check, HealthLimits limits = {});
  ~HealthWatch();  // waits for a check that runs
  HealthWatch(const HealthWatch&) = delete;
  HealthWatch& operator=(const HealthWatch&) = delete;

  [[nodiscard]] bool was_well() const;
  // Why it counts as unhealthy now; empty when it does not.
  [[nodiscard]] std::string Verdict() const;

 private:
  void Run();

  const std::function<Status()> check_;
  const HealthLimits limits_;
  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  bool ending_ = false;
  bool checking_ = false;
  bool was_well_ = false;
  std::chrono::steady_clock::time_point began_;
  int failures_ = 0;
  std::string reason_;
  std::thread thread_;
};

}  // namespace mesh::deployment
