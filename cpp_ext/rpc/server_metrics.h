// What a server counts, for Prometheus.
#pragma once

#include <cstdint>
#include <vector>

#include "common/metrics.h"
#include "rpc/server.h"

namespace mesh::rpc {

// Shows the numbers of a Server in a registry for as long as it lives; the server must live longer.
class ServerMetrics {
 public:
  ServerMetrics(metrics::Registry& registry, const Server& server);
  ~ServerMetrics();
  ServerMetrics(const ServerMetrics&) = delete;
  ServerMetrics& operator=(const ServerMetrics&) = delete;

 private:
  metrics::Registry& registry_;
  std::vector<std::uint64_t> ids_;
};

}  // namespace mesh::rpc
