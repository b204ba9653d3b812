// Counts events that are fine now and then and an attack in masses.
#pragma once

#include <algorithm>
#include <chrono>

namespace mesh::rpc {

class TokenBucket {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  TokenBucket(double burst, double per_second) : burst_(burst), per_second_(per_second), tokens_(burst) {}

  // False when more than `burst` came faster than `per_second`.
  bool Take(TimePoint now) {
    if (last_ != TimePoint()) {
      tokens_ = std::min(burst_, tokens_ + std::chrono::duration<double>(now - last_).count() * per_second_);
    }
    last_ = now;
    if (tokens_ < 1) return false;
    tokens_ -= 1;
    return true;
  }
  // One event less to worry about.
  void Give() { tokens_ = std::min(burst_, tokens_ + 1); }

 private:
  const double burst_;
  const double per_second_;
  double tokens_;
  TimePoint last_{};
};

}  // namespace mesh::rpc
