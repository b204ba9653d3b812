// What a proxy counts.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <map>
#include <string>
#include <utility>

#include "common/metrics.h"
#include "common/status.h"

namespace mesh::proxy {

class ProxyMetrics {
 public:
  explicit ProxyMetrics(metrics::Registry& registry);
  // Of a side of a traffic split, and of copies for a deployment: names that come from specs, and whose number the
  // registry bounds all the same. The counters live as long as the registry, these structs until the next call.
  struct Side {
    metrics::Counter& requests;
    metrics::Counter& spared;
  };
  struct Shadow {
    metrics::Counter& sent;
    metrics::Counter& full;
    metrics::Counter& nobody;
    metrics::Counter& failed;
  };
  Side& SideOf(const std::string& split, const std::string& side);
  Shadow& ShadowOf(const std::string& deployment);

  // A call of a client is over.
  void Count(Code code, std::chrono::steady_clock::duration took);

  metrics::Registry& registry;
  metrics::Counter& attempts;
  metrics::Counter& retries;
  metrics::Counter& budget_refused;
  metrics::Counter& hedges;
  metrics::Counter& queue_full;
  metrics::Counter& pulled;
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
  // The loop's, like those who count there.
  std::map<std::pair<std::string, std::string>, Side> sides_;
  std::map<std::string, Shadow> shadows_;
};

}  // namespace mesh::proxy
