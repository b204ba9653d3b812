// What a replica says of itself: ReplicaReport and Endpoint of proto/records.proto as canonical JSON. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/metrics.h"
#include "common/status.h"
#include "deployment/replica_config.h"
#include "deployment/replica_state.h"

namespace mesh::deployment {

struct ModelState {
  std::string name;
  std::string version;
  std::string state;  // "READY", "UNAVAILABLE", "LOADING", ...
  std::string reason;
};

// Triton's repository index. DATA_LOSS when it cannot be read.
Result<std::vector<ModelState>> ParseIndex(const std::string& index_json);

struct ReplicaView {
  std::string id;
  ReplicaState state = ReplicaState::kPreparing;
  std::string reason;
  std::string address;
  std::string metrics_address;
  std::int64_t pid = 0;
  std::int64_t lease = 0;
  bool registered = false;
  std::vector<ModelState> models;
  std::uint64_t in_flight = 0;
  std::int64_t revision = 0;         // whose models serve
  std::int64_t updating_to = 0;      // 0: no update is asked for
  std::int64_t failed_revision = 0;  // of the last update, when it failed
  std::string failed_reason;
  std::int64_t failed_updates = 0;  // since the process began
  std::string refused;              // why the call that is answered here did nothing
  double cpu_s = 0;                 // that the process has used
  metrics::Histogram::Snapshot request_seconds;
  std::uint64_t failed_requests = 0;  // of these: by the server's fault
  std::uint64_t streams = 0;          // that ended
  std::uint64_t failed_streams = 0;   // of these: by the server's fault
};

std::string ReportJson(const ReplicaView& view);

// The value of the replica's key in etcd; `state` is "ready" or "draining".
std::string EndpointJson(const ReplicaConfig& config, const ReplicaView& view, const std::string& node,
                         const std::string& state);

}  // namespace mesh::deployment
