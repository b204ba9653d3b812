// One replica of a deployment: the life of its process from the prepare command to the end of its last request.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "common/status.h"
#include "deployment/replica_config.h"
#include "deployment/replica_state.h"
#include "deployment/replica_update.h"

namespace mesh::deployment {

// Thread-safe. Nothing throws, nothing ends the process: what goes wrong is the reason in the report.
class Replica {
 public:
  using OnChange = std::function<void(ReplicaState)>;

  // `on_change` is told each state that is entered, on the replica's thread; it may call Report.
  explicit Replica(const Result<ReplicaConfig>& config, OnChange on_change = {});
  ~Replica();  // Stop()
  Replica(const Replica&) = delete;
  Replica& operator=(const Replica&) = delete;

  // Starts the thread that prepares, loads, serves and registers; returns at once. With a configuration that could not
  // be read the replica is "failed" for that reason.
  void Start();
  // A ReplicaReport in canonical JSON. `refused`: why the call that it answers did nothing.
  [[nodiscard]] std::string Report(const std::string& refused = "") const;
  [[nodiscard]] ReplicaState state() const;
  // Leaves discovery, refuses new requests, finishes the running ones for at most `limit`; returns at once and the
  // report follows it. A repetition can only shorten the limit. A load that runs is finished first.
  void Drain(std::chrono::milliseconds limit);
  // Serves the models of another revision as soon as they are loaded; returns at once and the report follows it. The
  // newest order counts. Refused (the reason is the status) for another replica's order and when it does not serve.
  Status Update(ReplicaUpdate update);
  // As Drain(0), and waits for the end.
  void Stop();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mesh::deployment
