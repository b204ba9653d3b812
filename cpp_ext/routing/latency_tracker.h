// Latency of one endpoint: an average weighted by time, which fades while nothing is observed. The twin of
// LatencyTracker in serving/routing/power_of_two.py, which says why; tests/contract/routing runs both.
#pragma once

namespace mesh::routing {

inline constexpr int kMinObservations = 5;     // before a latency is known at all; the best of them is taken
inline constexpr int kPlainObservations = 20;  // until so many they are averaged plainly

struct LatencyOptions {
  double tau_s = 5.0;        // an observation counts by the time since the one before, in these terms
  double hold_s = 1.0;       // after the last one the value stands so long
  double half_life_s = 1.5;  // and then halves each so often
};

class LatencyTracker {
 public:
  explicit LatencyTracker(LatencyOptions options = {}) : options_(options) {}

  void Observe(double latency_s, double now);
  // Seconds; 0.0 is unknown.
  [[nodiscard]] double latency_s(double now) const;

 private:
  LatencyOptions options_;
  double value_ = 0.0;
  double last_ = 0.0;
  int count_ = 0;
};

}  // namespace mesh::routing
