#include "rpc/server_metrics.h"

namespace mesh::rpc {

ServerMetrics::ServerMetrics(metrics::Registry& registry, const Server& server) : registry_(registry) {
  using Read = std::uint64_t ServerStats::*;
  const auto counter = [&](const char* name, const char* help, Read field) {
    const auto read = [&server, field] { return static_cast<double>(server.stats().*field); };
    ids_.push_back(registry.AddCounter(name, help, {}, read));
  };
  const auto gauge = [&](const char* name, const char* help, Read field) {
    const auto read = [&server, field] { return static_cast<double>(server.stats().*field); };
    ids_.push_back(registry.AddGauge(name, help, {}, read));
  };
  gauge("mesh_rpc_connections", "Open connections.", &ServerStats::connections_open);
  gauge("mesh_rpc_calls", "Open calls.", &ServerStats::calls_open);
  counter("mesh_rpc_connections_total", "Accepted connections.", &ServerStats::connections_total);
  counter("mesh_rpc_calls_total", "Calls that began.", &ServerStats::calls_total);
  counter("mesh_rpc_received_bytes_total", "Bytes read from connections.", &ServerStats::bytes_received);
  counter("mesh_rpc_sent_bytes_total", "Bytes written to connections.", &ServerStats::bytes_sent);
  counter("mesh_rpc_protocol_errors_total", "Violations of HTTP/2 or gRPC by peers.", &ServerStats::protocol_errors);
  counter("mesh_rpc_loop_sleeps_total", "Times that an event loop had nothing to do and went to sleep.",
          &ServerStats::loop_sleeps);
}

ServerMetrics::~ServerMetrics() {
  for (const std::uint64_t id : ids_) registry_.Remove(id);
}

}  // namespace mesh::rpc
