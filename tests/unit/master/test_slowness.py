"""Replicas that are much slower than the others are replaced: one at a time, and not for little."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from master_world import APP

from serving._proto import records_pb2 as pb
from serving.master.model import DrainReplica, Goal, Load, Replica, Report, Situation
from serving.master.names import ReplicaName
from serving.master.phases import ReplicaState
from serving.master.slowness import AFTER_S, PAUSE_S, SAMPLE_S, WINDOW_S, Slowness

NET = "net"
BOUNDS = (0.001, 0.01, 0.1, 1.0, 10.0)


class World:
    """Replicas by index with the seconds that a request takes; `look` is one turn of the master."""

    def __init__(self, takes: Mapping[int, float], *, rate: float = 10.0, **rule: float) -> None:
        spec = pb.ApplicationSpec(namespace="default", name="digits")
        deployment = spec.deployments.add(name=NET)
        if rule:
            deployment.replace_slow.MergeFrom(pb.SlowReplicas(**rule))  # type: ignore[arg-type]
        self.order = pb.Placement(generation=1, stored=pb.StoredSpec(spec=spec, revision=1))
        self.takes, self.rate = dict(takes), dict.fromkeys(takes, rate)
        self.goal = Goal(NET, len(takes), 1, drain_timeout_s=7.0)
        self.state = dict.fromkeys(takes, ReplicaState.READY)
        self.loads = {index: Load(within=tuple((bound, 0) for bound in BOUNDS)) for index in takes}
        self.slowness, self.now = Slowness(), 1000.0

    def name(self, index: int) -> ReplicaName:
        return ReplicaName(APP, 1, NET, 1, index)

    def look(self) -> tuple[DrainReplica, ...]:
        rows = tuple(
            Replica(self.name(index), state, since=0.0, present=True, pid=100 + index)
            for index, state in self.state.items()
        )
        situation = Situation(1, (self.goal,), rows)
        return self.slowness.look(situation, self.order, self._report, self.now)

    def _report(self, name: ReplicaName) -> Report | None:
        return Report(100 + name.index, "ready", load=self.loads[name.index])

    def live(self, seconds: float) -> list[DrainReplica]:
        found: list[DrainReplica] = []
        for _ in range(int(seconds / SAMPLE_S)):
            for index, load in self.loads.items():
                count = int(self.rate[index] * SAMPLE_S)
                within = tuple((bound, had + count * (self.takes[index] <= bound)) for bound, had in load.within)
                self.loads[index] = Load(requests=load.requests + count, within=within)
            self.now += SAMPLE_S
            found += self.look()
        return found


def test_the_slow_one_is_drained_once_after_its_time() -> None:
    world = World({0: 0.005, 1: 0.005, 2: 0.5})
    assert not world.live(AFTER_S - SAMPLE_S)
    (drained,) = world.live(WINDOW_S + 10)
    assert (drained.name, drained.limit_s) == (world.name(2), 7.0)
    assert "where the others take" in drained.why
    world.state[2] = ReplicaState.DRAINING
    assert not world.live(AFTER_S * 2)


def test_a_pause_lies_between_two() -> None:
    world = World({0: 0.005, 1: 0.005, 2: 0.005, 3: 0.5})
    assert len(world.live(AFTER_S + WINDOW_S)) == 1
    assert not world.live(PAUSE_S - WINDOW_S)
    assert len(world.live(2 * WINDOW_S)) == 1


@pytest.mark.parametrize(
    ("takes", "rule"),
    [
        ({0: 0.005, 1: 0.005, 2: 0.02}, {}),
        ({0: 0.005, 1: 0.5}, {}),
        ({0: 0.5, 1: 0.5, 2: 0.5}, {}),
        ({0: 0.005, 1: 0.005, 2: 0.5}, {"factor": 0.0}),
        ({0: 0.005, 1: 0.005, 2: 0.5}, {"factor": 5000.0}),
    ],
    ids=["a little slower", "of two who is slow?", "all are", "told never", "not by so much"],
)
def test_who_stays(takes: dict[int, float], rule: dict[str, float]) -> None:
    assert not World(takes, **rule).live(AFTER_S * 4)


def test_the_rule_of_the_specification() -> None:
    world = World({0: 0.005, 1: 0.005, 2: 0.06}, factor=3.0, after_s=4.0)
    assert [drained.name for drained in world.live(20)] == [world.name(2)]


def test_one_that_answers_little_is_not_judged_and_one_that_got_better_stays() -> None:
    world = World({0: 0.005, 1: 0.005, 2: 0.5})
    world.rate[2] = 0.0
    assert not world.live(AFTER_S * 2)
    world.rate[2] = 10.0
    assert not world.live(AFTER_S / 2)
    world.takes[2], world.rate[2] = 0.005, 100.0
    assert not world.live(AFTER_S * 2)


def test_few_requests_are_enough_for_one_that_gets_few_because_it_is_slow() -> None:
    world = World({0: 0.005, 1: 0.005, 2: 0.5})
    world.rate[2] = 0.5
    assert [drained.name for drained in world.live(AFTER_S + WINDOW_S)] == [world.name(2)]


def test_nobody_goes_while_the_deployment_changes() -> None:
    world = World({0: 0.005, 1: 0.005, 2: 0.5})
    world.state[1] = ReplicaState.STARTING
    assert not world.live(AFTER_S * 2)
    world.state[1] = ReplicaState.READY
    world.goal = Goal(NET, 3, 1, paused=True)
    assert not world.live(AFTER_S * 2)
    world.goal = Goal(NET, 3, 1)
    assert len(world.live(WINDOW_S)) == 1
