// Growing, jittered pauses between attempts.
#pragma once

#include <algorithm>
#include <chrono>
#include <random>

namespace mesh::registry {

class Backoff {
 public:
  Backoff(std::chrono::milliseconds first, std::chrono::milliseconds most) : first_(first), most_(most) {}

  void Reset() { failures_ = 0; }
  [[nodiscard]] std::chrono::milliseconds Next() {
    const double grown = static_cast<double>(first_.count()) * static_cast<double>(1U << std::min(failures_, 16U));
    ++failures_;
    std::uniform_real_distribution<double> jitter(0.7, 1.3);
    const double bounded = std::min(grown, static_cast<double>(most_.count()));
    return std::chrono::milliseconds(static_cast<std::int64_t>(bounded * jitter(random_)));
  }

 private:
  const std::chrono::milliseconds first_;
  const std::chrono::milliseconds most_;
  unsigned failures_ = 0;
  std::minstd_rand random_{std::random_device{}()};
};

}  // namespace mesh::registry
