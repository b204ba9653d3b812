#include "deployment/replica_state.h"

#include <gtest/gtest.h>

#include <vector>

namespace mesh::deployment {
namespace {

const std::vector<ReplicaState> kAll = {ReplicaState::kPreparing, ReplicaState::kLoading, ReplicaState::kReady,
                                        ReplicaState::kDraining,  ReplicaState::kDrained, ReplicaState::kFailed};

TEST(ReplicaStateTest, FailsOnlyBeforeItIsReady) {
  for (const ReplicaState from : kAll) {
    const bool early = from == ReplicaState::kPreparing || from == ReplicaState::kLoading;
    EXPECT_EQ(MayFollow(from, ReplicaState::kFailed), early) << StateName(from);
  }
}

TEST(ReplicaStateTest, NothingFollowsDrainedAndOnlyDrainingLeadsThere) {
  for (const ReplicaState other : kAll) {
    EXPECT_FALSE(MayFollow(ReplicaState::kDrained, other)) << StateName(other);
    EXPECT_EQ(MayFollow(other, ReplicaState::kDrained), other == ReplicaState::kDraining) << StateName(other);
  }
}

TEST(ReplicaStateTest, EveryStateThatRunsMayBeDrained) {
  for (const ReplicaState from : kAll) {
    const bool over = from == ReplicaState::kDraining || from == ReplicaState::kDrained;
    EXPECT_EQ(MayFollow(from, ReplicaState::kDraining), !over) << StateName(from);
  }
}

TEST(ReplicaStateTest, NoStateFollowsItself) {
  for (const ReplicaState state : kAll) EXPECT_FALSE(MayFollow(state, state)) << StateName(state);
}

}  // namespace
}  // namespace mesh::deployment
