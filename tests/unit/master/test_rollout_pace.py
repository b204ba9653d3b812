"""How quickly a rollout goes: surge, missing replicas, the time that a new one must be ready, and pauses."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from master_world import APP, World

from serving._proto import records_pb2 as pb
from serving.master.crash_loop import BackoffLimits, fold
from serving.master.model import CreateReplica, DrainReplica, Goal, KillReplica, Replica
from serving.master.names import ReplicaName
from serving.master.order import goals
from serving.master.phases import ReplicaState
from serving.master.rollout import settles_at

DEPLOYMENT = "digits"


def goal(replicas: int, revision: int, **more: object) -> Goal:
    return Goal(DEPLOYMENT, replicas, revision, drain_timeout_s=10.0, **more)  # type: ignore[arg-type]


def running(replicas: int) -> World:
    world = World((goal(replicas, 1),))
    world.settle()
    return world


@given(
    replicas=st.integers(1, 8),
    surge=st.integers(0, 4),
    missing=st.integers(0, 4),
    min_ready_s=st.sampled_from([0.0, 3.0]),
    bad=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_never_more_than_the_surge_and_never_fewer_than_allowed(
    replicas: int, surge: int, missing: int, min_ready_s: float, bad: bool
) -> None:
    if surge + missing == 0:
        surge = 1
    world = running(replicas)
    world.bad = frozenset({2}) if bad else frozenset()
    world.goals = (goal(replicas, 2, max_surge=surge, max_unavailable=missing, min_ready_s=min_ready_s),)
    for _ in range(150):
        for action in world.actions():
            world.apply_one(action)
            assert len(world.living(DEPLOYMENT)) <= replicas + surge
            assert len(world.serving(DEPLOYMENT)) >= replicas - missing
        world.everything_goes_on()
        world.now += 1.0
    world.settle()
    expected = [2] * replicas
    if bad:
        expected = [1] * len(world.serving(DEPLOYMENT))
        assert len(expected) >= replicas - missing, "a revision that cannot start costs no more than that"
    assert sorted(name.revision for name in world.serving(DEPLOYMENT)) == expected


@given(surge=st.integers(1, 6), missing=st.integers(0, 6))
@settings(max_examples=40, deadline=None)
def test_as_many_as_allowed_are_replaced_at_once(surge: int, missing: int) -> None:
    replicas = 6
    world = running(replicas)
    world.goals = (goal(replicas, 2, max_surge=surge, max_unavailable=missing),)
    actions = world.actions()
    assert len([action for action in actions if isinstance(action, DrainReplica)]) == missing
    world.apply(actions)
    world.apply(world.actions())  # the places of those that leave are free now
    created = [name for name in world.living(DEPLOYMENT) if name.revision == 2]
    assert len(created) == min(replicas, surge + missing)


def test_an_old_replica_goes_when_a_new_one_has_been_ready_for_long_enough() -> None:
    world = running(2)
    wanted = goal(2, 2, min_ready_s=30.0)
    world.goals = (wanted,)
    became_ready: dict[str, float] = {}
    replaced = 0
    for _ in range(300):
        for row in world.look().replicas:
            if row.revision == 2 and row.id in {name.id for name in world.serving(DEPLOYMENT)}:
                became_ready.setdefault(row.id, row.since)
                assert settles_at(wanted, row) == became_ready[row.id] + 30.0
        for action in world.actions():
            if isinstance(action, DrainReplica):
                assert action.name.revision == 1
                replaced += 1
                assert sum(world.now >= since + 30.0 for since in became_ready.values()) >= replaced
            assert not isinstance(action, KillReplica) or action.name.revision == 1
            world.apply_one(action)
        world.everything_goes_on()
        world.now += 1.0
    assert sorted(name.revision for name in world.serving(DEPLOYMENT)) == [2, 2]
    assert replaced == 2


def test_a_first_start_does_not_wait() -> None:
    world = World((goal(3, 1, min_ready_s=1000.0),))
    for _ in range(20):
        world.apply(world.actions())
        world.everything_goes_on()
        world.now += 1.0
    assert len(world.serving(DEPLOYMENT)) == 3


def test_a_pause_holds_a_rollout_where_it_is_and_heals_it_nevertheless() -> None:
    world = running(4)
    wanted = goal(4, 2)
    world.goals = (wanted,)
    while {name.revision for name in world.serving(DEPLOYMENT)} != {1, 2}:
        world.apply(world.actions())
        world.everything_goes_on()
        world.now += 1.0
    world.goals = (replace(wanted, paused=True),)
    world.settle()
    held = set(world.serving(DEPLOYMENT))
    assert {name.revision for name in held} == {1, 2}
    assert world.actions() == ()
    victim = min(held)
    world.die(victim)
    world.settle()
    assert set(world.serving(DEPLOYMENT)) == held, "Ray starts it again in its place"
    world.goals = (wanted,)
    world.settle()
    assert sorted(name.revision for name in world.serving(DEPLOYMENT)) == [2, 2, 2, 2]


def test_what_is_lost_for_good_during_a_pause_is_replaced_by_its_own_revision() -> None:
    world = running(3)
    world.goals = (goal(3, 2, paused=True),)
    world.settle()
    assert [name.revision for name in world.serving(DEPLOYMENT)] == [1, 1, 1], "nothing begins while it is paused"
    victim = world.serving(DEPLOYMENT)[0]
    world.actors[victim].max_restarts = 0
    world.die(victim)
    world.settle()
    assert [name.revision for name in world.serving(DEPLOYMENT)] == [1, 1, 1]
    assert len(world.living(DEPLOYMENT)) == 3


def test_a_size_changes_during_a_pause_without_the_new_revision() -> None:
    world = running(3)
    for replicas in (5, 2):
        world.goals = (goal(replicas, 2, paused=True),)
        world.settle()
        assert [name.revision for name in world.serving(DEPLOYMENT)] == [1] * replicas


def test_a_pause_begins_no_update_in_place() -> None:
    world = running(2)
    world.goals = (goal(2, 2, updatable=frozenset({1}), paused=True),)
    assert world.actions() == ()


def test_a_scale_in_during_a_rollout_spares_what_has_been_ready_for_long() -> None:
    world = running(3)
    world.goals = (goal(3, 2, min_ready_s=1000.0),)
    for _ in range(20):
        world.apply(world.actions())
        world.everything_goes_on()
        world.now += 1.0
    assert sorted(name.revision for name in world.serving(DEPLOYMENT)) == [1, 1, 1, 2]
    world.goals = (goal(1, 2, min_ready_s=1000.0),)
    world.apply(world.actions())
    assert sorted(name.revision for name in world.serving(DEPLOYMENT)) == [1, 2], "the new one is not proven yet"


def test_a_scale_in_spares_replicas_that_run_long_items() -> None:
    world = running(4)
    world.goals = (goal(2, 1, busy=frozenset({f"{DEPLOYMENT}-r1-1", f"{DEPLOYMENT}-r1-3"})),)
    world.apply(world.actions())
    assert sorted(name.index for name in world.serving(DEPLOYMENT)) == [1, 3]
    world.goals = (goal(1, 1, busy=frozenset({f"{DEPLOYMENT}-r1-1", f"{DEPLOYMENT}-r1-3"})),)
    world.apply(world.actions())
    assert sorted(name.index for name in world.serving(DEPLOYMENT)) == [1], "who orders fewer gets fewer"


def test_one_good_replica_does_not_hide_that_others_fail() -> None:
    """It was ready before they failed: the pauses grow all the same."""
    world = running(2)
    world.goals = (goal(2, 2),)
    while 2 not in {name.revision for name in world.serving(DEPLOYMENT)}:
        world.apply(world.actions())
        world.everything_goes_on()
        world.now += 1.0
    world.bad = frozenset({2})
    created = []
    for _ in range(200):
        for action in world.actions():
            created += [world.now] if isinstance(action, CreateReplica) else []
            world.apply_one(action)
        world.everything_goes_on()
        world.now += 1.0
    assert world.loops[DEPLOYMENT].failures >= 3
    assert len(created) <= 8
    world.bad = frozenset()
    world.settle()
    assert sorted(name.revision for name in world.serving(DEPLOYMENT)) == [2, 2]
    assert world.loops == {}


def test_a_replica_that_fails_before_it_was_ready_for_long_enough_is_a_failure() -> None:
    wanted = goal(1, 2, min_ready_s=60.0)
    name = ReplicaName(APP, 1, DEPLOYMENT, 2, 0)
    ready = Replica(name, ReplicaState.READY, since=100.0, present=True)
    failed = replace(ready, state=ReplicaState.FAILED, since=130.0, reason="gone")
    loops = fold({}, [wanted], {ready.id: ready}, [failed], BackoffLimits(), 130.0)
    assert loops[DEPLOYMENT].reason == "gone"
    assert fold({}, [goal(1, 2)], {ready.id: ready}, [failed], BackoffLimits(), 130.0) == {}


def test_proxies_leave_before_what_they_stand_in_front_of() -> None:
    world = World((goal(2, 1), Goal("grpc", 2, 1, fronts=True)))
    world.settle()
    world.stopping = True
    while world.living("grpc") or world.serving("grpc"):
        for action in world.actions():
            assert not isinstance(action, DrainReplica) or action.name.deployment == "grpc"
            world.apply_one(action)
        assert len(world.serving(DEPLOYMENT)) == 2
        world.everything_goes_on()
        world.now += 1.0
    world.settle()
    assert world.finished


@pytest.mark.parametrize(
    ("rollout", "replicas", "expected"),
    [
        (None, 4, (1, 0, 0.0)),
        (pb.Rollout(min_ready_s=5), 4, (1, 0, 5.0)),
        (pb.Rollout(max_surge=pb.ReplicaAmount(percent=25)), 10, (3, 0, 0.0)),
        (pb.Rollout(max_surge=pb.ReplicaAmount(), max_unavailable=pb.ReplicaAmount(percent=25)), 10, (0, 2, 0.0)),
        (pb.Rollout(max_surge=pb.ReplicaAmount(), max_unavailable=pb.ReplicaAmount(percent=25)), 3, (1, 0, 0.0)),
        (pb.Rollout(max_surge=pb.ReplicaAmount(count=2), max_unavailable=pb.ReplicaAmount(count=1)), 3, (2, 1, 0.0)),
    ],
)
def test_shares_are_rounded_so_that_a_rollout_goes_on_and_serves(
    rollout: pb.Rollout | None, replicas: int, expected: tuple[int, int, float]
) -> None:
    spec = pb.DeploymentSpec(
        name=DEPLOYMENT, replicas=pb.Replicas(min=replicas, max=replicas), triton=pb.TritonDeployment(), rollout=rollout
    )
    stored = pb.StoredSpec(spec=pb.ApplicationSpec(deployments=[spec]), revision=1, paused=True)
    (found,) = goals(pb.Placement(stored=stored), (), {})
    assert (found.max_surge, found.max_unavailable, found.min_ready_s) == expected
    assert found.paused


@pytest.mark.parametrize("rollout", [None, pb.Rollout(min_ready_s=5)])
def test_a_semantic_cache_leaves_before_the_next_one_comes(rollout: pb.Rollout | None) -> None:
    """Which takes over its folder."""
    spec = pb.DeploymentSpec(
        name="cache", replicas=pb.Replicas(min=1, max=1), semantic_cache=pb.SemanticCacheDeployment(), rollout=rollout
    )
    (found,) = goals(
        pb.Placement(stored=pb.StoredSpec(spec=pb.ApplicationSpec(deployments=[spec]), revision=1)), (), {}
    )
    assert (found.max_surge, found.max_unavailable) == (0, 1)
