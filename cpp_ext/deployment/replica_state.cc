#include "deployment/replica_state.h"

#include <algorithm>
#include <array>
#include <utility>

namespace mesh::deployment {
namespace {

using Step = std::pair<ReplicaState, ReplicaState>;

constexpr std::array<Step, 12> kSteps = {{
    {ReplicaState::kPreparing, ReplicaState::kLoading},
    {ReplicaState::kPreparing, ReplicaState::kFailed},
    {ReplicaState::kPreparing, ReplicaState::kDraining},  // asked to go before it was ready
    {ReplicaState::kLoading, ReplicaState::kReady},
    {ReplicaState::kLoading, ReplicaState::kFailed},
    {ReplicaState::kLoading, ReplicaState::kDraining},
    {ReplicaState::kReady, ReplicaState::kUnhealthy},
    {ReplicaState::kReady, ReplicaState::kDraining},
    {ReplicaState::kUnhealthy, ReplicaState::kReady},
    {ReplicaState::kUnhealthy, ReplicaState::kDraining},
    {ReplicaState::kFailed, ReplicaState::kDraining},
    {ReplicaState::kDraining, ReplicaState::kDrained},
}};

}  // namespace

const char* StateName(ReplicaState state) {
  switch (state) {
    case ReplicaState::kPreparing: return "preparing";
    case ReplicaState::kLoading: return "loading";
    case ReplicaState::kReady: return "ready";
    case ReplicaState::kUnhealthy: return "unhealthy";
    case ReplicaState::kDraining: return "draining";
    case ReplicaState::kDrained: return "drained";
    case ReplicaState::kFailed: return "failed";
  }
  return "failed";
}

bool MayFollow(ReplicaState from, ReplicaState to) {
  return std::find(kSteps.begin(), kSteps.end(), Step(from, to)) != kSteps.end();
}

}  // namespace mesh::deployment
