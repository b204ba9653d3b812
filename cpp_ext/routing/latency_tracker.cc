#include "routing/latency_tracker.h"

#include <algorithm>
#include <cmath>

namespace mesh::routing {

void LatencyTracker::Observe(double latency_s, double now) {
  count_ = std::min(count_ + 1, kPlainObservations);
  if (count_ <= kMinObservations) {
    value_ = count_ == 1 ? latency_s : std::min(value_, latency_s);
  } else {
    const double by_time = 1.0 - std::exp(-std::max(now - last_, 0.0) / options_.tau_s);
    const double plainly = count_ < kPlainObservations ? 1.0 / count_ : 0.0;
    value_ += (latency_s - value_) * std::max(by_time, plainly);
  }
  last_ = std::max(now, last_);
}

double LatencyTracker::latency_s(double now) const {
  if (count_ < kMinObservations) return 0.0;
  const double idle = now - last_ - options_.hold_s;
  return idle <= 0.0 ? value_ : value_ * std::pow(0.5, idle / options_.half_life_s);
}

}  // namespace mesh::routing
