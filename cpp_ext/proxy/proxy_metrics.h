// What a proxy counts.
#pragma once

#include <array>
#include <chrono>
#include <string>

#include "common/metrics.h"
#include "common/status.h"

namespace mesh::proxy {

class ProxyMetrics {
 public:
  explicit ProxyMetrics(metrics::Registry& registry);
  // A call of a client is over.
  void Count(Code code, std::chrono::steady_clock::duration took);

  metrics::Registry& registry;
  metrics::Counter& attempts;
  metrics::Counter& retries;
  metrics::Counter& budget_refused;
  metrics::Counter& hedges;
  metrics::Counter& queue_full;
  metrics::Counter& ejections;
  metrics::Counter& restored;
  metrics::Gauge& waiting;
  metrics::Gauge& in_flight;
  metrics::Gauge& endpoints_ready;
  metrics::Gauge& endpoints_draining;
  metrics::Gauge& endpoints_ejected;

 private:
  static constexpr std::size_t kCodes = 17;
  std::array<metrics::Counter*, kCodes> requests_{};
  metrics::Histogram& seconds_;
};

}  // namespace mesh::proxy
