// The life of a replica: which state may follow which, in one table.
//
//   preparing ──▶ loading ──▶ ready ⇄ unhealthy ──▶ draining ──▶ drained
//       └────────────┴──▶ failed ─────────────────────▲
#pragma once

#include <cstdint>

namespace mesh::deployment {

enum class ReplicaState : std::uint8_t {
  kPreparing,  // the prepare command runs on this node
  kLoading,    // Triton starts and loads the models
  kReady,      // answers requests
  kUnhealthy,  // the deployment's own code says that it is not well; the reason says why
  kDraining,   // has left discovery, refuses new requests, finishes the running ones
  kDrained,    // nothing runs any more; the process may be ended
  kFailed,     // could not become ready; the reason says why
};

// As ReplicaReport.state has it.
const char* StateName(ReplicaState state);
bool MayFollow(ReplicaState from, ReplicaState to);

}  // namespace mesh::deployment
