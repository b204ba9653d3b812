"""Sizes by what waits at brokers: how many are asked for, when nobody may go, and who must have said so."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Collection
from dataclasses import replace

import pytest
from master_world import APP

from serving._proto import records_pb2 as pb
from serving.master.autoscaling import Autoscaler, Sample, ScalingPolicy
from serving.master.backlog import FRESH_S, Backlog, backlogs
from serving.master.model import Load, QueueLoad, Replica, Report
from serving.master.names import ReplicaName
from serving.master.phases import ReplicaState
from serving.master.queue_policy import wish_for_age
from serving.master.scaling import SAMPLE_S, Scaling

NET, QUEUE, OTHER = "net", "queue", "other"
NOON = 1_790_000_000.0


def order(*, low: int = 0, brokers: int = 1, **autoscaling: float) -> pb.Placement:
    """`net` and `other`, which is not scaled; the broker takes requests for both."""
    spec = pb.ApplicationSpec(namespace="default", name="digits")
    scaled = spec.deployments.add(name=NET, replicas=pb.Replicas(min=low, max=20), python=pb.PythonDeployment())
    wanted = {"target_ongoing": 10.0, "window_s": 2.0, "down_delay_s": 5.0, **autoscaling}
    scaled.autoscaling.MergeFrom(pb.Autoscaling(**wanted))  # type: ignore[arg-type]
    spec.deployments.add(name=OTHER, replicas=pb.Replicas(min=1, max=1), python=pb.PythonDeployment())
    spec.deployments.add(name=QUEUE, replicas=pb.Replicas(min=brokers, max=brokers), broker=pb.BrokerDeployment())
    return pb.Placement(cluster="east", generation=1, stored=pb.StoredSpec(spec=spec, revision=1, uid="u"))


def row(deployment: str, index: int = 0, state: ReplicaState = ReplicaState.READY) -> Replica:
    name = ReplicaName(APP, 1, deployment, 1, index)
    return Replica(name, state, since=0.0, present=True, pid=100 + index)


class World:
    """One turn of the master each `SAMPLE_S`. As many replicas of `net` are ready as it wants."""

    def __init__(self, wanted: pb.Placement, brokers: Collection[Replica] | None = None) -> None:
        self.wanted = wanted
        self.scaling = Scaling()
        self.brokers = [row(QUEUE)] if brokers is None else list(brokers)
        self.silent: set[ReplicaName] = set()
        self.reports: dict[ReplicaName, Report] = {}
        self.now = 1000.0

    @property
    def size(self) -> int:
        return self.scaling.sizes.get(NET, 1)

    def run(self, seconds: float, *, in_flight: int = 0, **queue: float) -> int:
        """`in_flight` of each replica; `queue` is what each broker says of `net`."""
        for _ in range(int(seconds / SAMPLE_S)):
            replicas = [row(NET, index) for index in range(self.size)]
            for one in replicas:
                self.hear(one, Load(in_flight=in_flight))
            for one in self.brokers:
                self.hear(one, Load(queues={NET: QueueLoad(**queue)}))  # type: ignore[arg-type]
            rows = [*replicas, *self.brokers]
            self.scaling.follow(self.wanted, rows)
            self.scaling.look(self.wanted, rows, self.reports.get, self.now, self.now)
            self.now += SAMPLE_S
        return self.size

    def hear(self, one: Replica, load: Load) -> None:
        if one.name not in self.silent:
            self.reports[one.name] = Report(one.pid, "ready", load=load, heard_at=self.now)


def test_what_waits_at_a_broker_counts_as_requests_that_wait() -> None:
    world = World(order())
    assert world.run(5, queued=80) == 8
    assert world.scaling.counted(world.wanted) == {NET, QUEUE}, "it is asked often"


def test_what_replicas_run_for_a_broker_counts_once() -> None:
    world = World(order(low=4))
    assert world.run(20, in_flight=10, running=40) == 4
    assert world.run(20, in_flight=0, running=60) == 6, "on their way to the replicas"


def test_none_are_left_when_nothing_waits_and_the_first_item_wakes_one() -> None:
    world = World(order())
    assert world.run(10) == 0
    assert world.run(SAMPLE_S, queued=1) == 1


@pytest.mark.parametrize("target", ["target_ongoing", "target_requests_per_s", "target_queue_age_s"])
@pytest.mark.parametrize("state", ["queued", "running"])
def test_nobody_is_the_last_to_go_while_something_waits_or_runs(state: str, target: str) -> None:
    world = World(order(**{"target_ongoing": 0.0, target: 100.0}))  # type: ignore[arg-type]
    assert world.run(60, **{state: 1}) == 1
    assert world.run(10) == 0


def test_items_for_another_deployment_wake_nobody() -> None:
    world = World(order())
    world.run(10)
    for _ in range(10):
        world.hear(world.brokers[0], Load(queues={OTHER: QueueLoad(queued=7), NET: QueueLoad()}))
        world.scaling.look(world.wanted, world.brokers, world.reports.get, world.now, world.now)
        world.now += SAMPLE_S
    assert world.size == 0


def test_a_broker_that_says_nothing_keeps_the_size_and_one_that_comes_back_is_heard() -> None:
    world = World(order())
    world.run(10, queued=40)
    world.silent.add(world.brokers[0].name)
    assert world.run(FRESH_S + 60) == 4
    world.silent.clear()
    assert world.run(20) == 0


@pytest.mark.parametrize(
    "brokers",
    [
        [],
        [row(QUEUE, 0)],
        [row(QUEUE, 0), row(QUEUE, 1, ReplicaState.STARTING)],
        [row(QUEUE, 0), replace(row(QUEUE, 1), retired=True)],
    ],
    ids=["none", "one is missing", "one starts", "one drains"],
)
def test_nobody_goes_while_brokers_are_missing_start_or_drain(brokers: list[Replica]) -> None:
    world = World(order(brokers=2), brokers)
    assert world.run(60) == 1
    both = World(order(brokers=2), [row(QUEUE, 0), row(QUEUE, 1)])
    assert both.run(60) == 0


def test_more_come_also_while_a_broker_is_away() -> None:
    world = World(order(brokers=2), [row(QUEUE)])
    assert world.run(5, queued=80) == 8


def test_a_broker_that_reads_a_journal_is_not_known() -> None:
    world = World(order())
    world.hear(world.brokers[0], Load(queues=None))
    assert backlogs(world.wanted, world.brokers, world.reports.get, world.now)[NET].known is False
    world.hear(world.brokers[0], Load(queues={}))
    assert backlogs(world.wanted, world.brokers, world.reports.get, world.now)[NET].known is False


def test_queues_of_several_brokers_are_one() -> None:
    world = World(order(brokers=2), [row(QUEUE, 0), row(QUEUE, 1)])
    for one, age in zip(world.brokers, (3.0, 9.0), strict=True):
        runs = {f"net-r1-{age:g}": 30.1, "net-r1-1": 10 * age - 60.0, "net-r1-2": 30.0}
        queue = QueueLoad(queued=2, running=4, oldest_age_s=age, work_s=5.0, places=6, replicas=3, longest_run_s=runs)
        world.hear(one, Load(queues={NET: queue}))
    found = backlogs(world.wanted, world.brokers, world.reports.get, world.now)
    assert found[NET] == Backlog(True, 4, 8, 9.0, 10.0, 12, 3, frozenset({"net-r1-3", "net-r1-9"}))
    assert found[NET].places_per_replica == 4
    assert found[OTHER] == Backlog(True)


@pytest.mark.parametrize(
    ("drain_timeout_s", "wanted"), [(0.0, set()), (12.0, {"net-r1-1"}), (5.0, {"net-r1-0", "net-r1-1"})]
)
def test_a_replica_whose_items_end_within_a_drain_may_go(drain_timeout_s: float, wanted: set[str]) -> None:
    """Each runs an item of 11 to 25 s: with the usual drain of 30 s nothing of them is cut off."""
    world = World(order())
    world.wanted.stored.spec.deployments[0].drain_timeout_s = drain_timeout_s
    queue = QueueLoad(running=2, longest_run_s={"net-r1-0": 11.0, "net-r1-1": 25.0})
    world.hear(world.brokers[0], Load(queues={NET: queue}))
    assert backlogs(world.wanted, world.brokers, world.reports.get, world.now)[NET].busy == wanted


@pytest.mark.parametrize("target", ["target_ongoing", "target_queue_age_s"])
def test_replicas_that_run_long_items_stay(target: str) -> None:
    world = World(order(low=1, **{"target_ongoing": 0.0, target: 100.0}))  # type: ignore[arg-type]
    world.scaling.follow(world.wanted, [row(NET, index) for index in range(4)])
    assert world.size == 4
    busy = frozenset({"net-r1-0", "net-r1-2"})
    long = dict.fromkeys(busy, 31.0)
    assert world.run(60, running=2, places=16, replicas=4, longest_run_s=long) == 2  # type: ignore[arg-type]
    assert world.scaling.busy == {NET: busy}
    assert world.run(60, running=2, places=16, replicas=2) == 1
    assert world.scaling.busy == {}


# ---------------------------------------------------------------------------------------------------- by age

FULL = Backlog(True, queued=100, running=8, oldest_age_s=10.0, work_s=2400.0, places=8, replicas=4)


@pytest.mark.parametrize(
    ("backlog", "settled", "wish"),
    [
        (FULL, True, 20.0),  # 2,400 s of work, two at a time, in 60 s
        (replace(FULL, work_s=600.0, oldest_age_s=40.0), True, 5.0),
        (replace(FULL, work_s=60.0, oldest_age_s=40.0), True, 4.0),  # enough, but nobody goes while it is old
        (replace(FULL, work_s=60.0), True, 4.0),  # busy ones stay
        (replace(FULL, work_s=60.0, running=2), True, 1.0),
        (replace(FULL, work_s=0.0), True, 4.0),  # nobody knows how long they take
        (replace(FULL, work_s=0.0, oldest_age_s=120.0), True, 8.0),
        (replace(FULL, work_s=0.0, oldest_age_s=6000.0), True, 16.0),  # four times at most
        (replace(FULL, work_s=0.0, oldest_age_s=120.0), False, 4.0),  # those that came last had no time yet
        (replace(FULL, queued=3, work_s=0.0, oldest_age_s=6000.0), True, 5.5),  # no more than have something to do
        (replace(FULL, places=0, replicas=0), True, 4.0),  # nobody has asked yet
        (Backlog(True), True, 0.0),
        (Backlog(True, places=8, replicas=4), True, 0.0),
    ],
)
def test_wishes_by_age(backlog: Backlog, settled: bool, wish: float) -> None:
    number, why = wish_for_age([backlog], 60.0, 4, settled=settled)
    assert number == pytest.approx(wish)
    assert f"the oldest of {backlog.queued} items waits for" in why
    assert "60 are wanted" in why


class Queue:
    """Items with times of a log-normal distribution; each replica does `places` at once. One turn is `SAMPLE_S`."""

    def __init__(self, seed: int, policy: ScalingPolicy, *, mean_s: float, places: int) -> None:
        self.chance = random.Random(seed)
        self.scaler = Autoscaler(policy, max(1, policy.least))
        self.mean_s, self.places = mean_s, places
        self.waiting: deque[float] = deque()
        self.running: list[float] = []  # until when
        self.now = NOON
        self.oldest: list[float] = []
        self.sizes: list[int] = []
        self._owed = 0.0

    def run(self, seconds: float, per_s: float) -> None:
        for _ in range(int(seconds / SAMPLE_S)):
            self.now += SAMPLE_S
            self._owed += per_s * SAMPLE_S * self.chance.uniform(0.0, 2.0)
            while self._owed >= 1:
                self.waiting.append(self.now)
                self._owed -= 1
            self._serve()
            size = self.scaler.size
            age = self.now - self.waiting[0] if self.waiting else 0.0
            room = max(len(self.running), size * self.places)
            work_s = len(self.waiting) * self.mean_s
            backlog = Backlog(True, len(self.waiting), len(self.running), age, work_s, room, size)
            self.scaler.observe(Sample(self.now, len(self.running), ready=size, backlog=backlog))
            self.scaler.decide(self.now, self.now)
            self.oldest.append(age)
            self.sizes.append(self.scaler.size)

    def _serve(self) -> None:
        self.running = [until for until in self.running if until > self.now]
        while self.waiting and len(self.running) < self.scaler.size * self.places:
            self.waiting.popleft()
            self.running.append(self.now + self.mean_s * self.chance.lognormvariate(-0.5, 1.0))


@pytest.mark.parametrize(("mean_s", "places"), [(5.0, 1), (20.0, 8), (120.0, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_the_oldest_item_stays_young_with_as_many_replicas_as_are_needed(seed: int, mean_s: float, places: int) -> None:
    """A burst, then a steady load of nine replicas, then nothing."""
    queue = Queue(seed, ScalingPolicy(0, 60, queue_age_s=60.0), mean_s=mean_s, places=places)
    for _ in range(math.ceil(20 * 60 * places / mean_s)):
        queue.waiting.append(queue.now)
    queue.run(900, 9 * places / mean_s)
    queue.run(1800, 9 * places / mean_s)
    steady = queue.oldest[-2400:]
    assert sum(age <= 66 for age in steady) >= 0.9 * len(steady)
    assert 6 <= sum(queue.sizes[-2400:]) / 2400 <= 15
    queue.run(2400, 0.0)
    assert queue.scaler.size == 0
