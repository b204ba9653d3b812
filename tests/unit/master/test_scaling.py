"""From what processes report to sizes: who is counted, who is missing, and where a master begins."""

from __future__ import annotations

from collections.abc import Mapping

from master_world import APP

from serving._proto import records_pb2 as pb
from serving.master.model import Load, Replica, Report
from serving.master.names import ReplicaName
from serving.master.phases import ReplicaState
from serving.master.scaling import FRESH_S, SAMPLE_S, Scaling

NET = "net"


def order(*, low: int = 1, high: int = 20, proxies: bool = False, others: int = 0) -> pb.Placement:
    spec = pb.ApplicationSpec(namespace="default", name="digits")
    scaled = spec.deployments.add(name=NET, replicas=pb.Replicas(min=low, max=high), triton=pb.TritonDeployment())
    scaled.autoscaling.MergeFrom(pb.Autoscaling(target_ongoing=10, window_s=2, down_delay_s=5))
    for number in range(others):
        spec.deployments.add(name=f"other{number}", replicas=pb.Replicas(min=1, max=1), triton=pb.TritonDeployment())
    if proxies:
        spec.deployments.add(name="grpc", replicas=pb.Replicas(min=1, max=1), proxy=pb.ProxyDeployment())
    return pb.Placement(cluster="east", generation=1, stored=pb.StoredSpec(spec=spec, revision=1, uid="u"))


def rows(count: int, *, deployment: str = NET, same_pid: bool = False) -> list[Replica]:
    return [
        Replica(
            ReplicaName(APP, 1, deployment, 1, index),
            ReplicaState.READY,
            since=0.0,
            present=True,
            pid=7 if same_pid else 100 + index,
        )
        for index in range(count)
    ]


class World:
    """Reports by replica; `look` is one turn of the master, `SAMPLE_S` later each time."""

    def __init__(self, wanted: pb.Placement) -> None:
        self.wanted = wanted
        self.scaling = Scaling()
        self.reports: dict[ReplicaName, Report] = {}
        self.now = 1000.0

    def hear(self, replicas: list[Replica], *, in_flight: int = 0, waiting: int = 0) -> None:
        load = Load(in_flight=in_flight, waiting=waiting)
        for row in replicas:
            self.reports[row.name] = Report(row.pid, "ready", load=load, heard_at=self.now)

    def look(self, replicas: list[Replica]) -> Mapping[str, int]:
        self.scaling.follow(self.wanted, replicas)
        self.scaling.look(self.wanted, replicas, self.reports.get, self.now, self.now)
        self.now += SAMPLE_S
        return self.scaling.sizes

    def run(self, replicas: list[Replica], *, seconds: float, in_flight: int) -> int:
        for _ in range(int(seconds / SAMPLE_S)):
            self.hear(replicas, in_flight=in_flight)
            self.look(replicas)
        return self.scaling.sizes[NET]


def status(wanted: int) -> pb.ApplicationStatus:
    return pb.ApplicationStatus(uid="u", deployments=[pb.DeploymentStatus(name=NET, wanted=wanted)])


def test_a_master_begins_with_what_runs_whatever_the_status_says() -> None:
    for known in (None, status(2)):
        world = World(order())
        world.scaling.restore(known)
        assert world.look(rows(12)) == {NET: 12}


def test_where_nothing_runs_the_size_before_counts_once() -> None:
    world = World(order())
    world.scaling.restore(status(5))
    assert world.look([]) == {NET: 5}
    world.wanted.stored.spec.deployments[0].ClearField("autoscaling")
    assert world.look([]) == {}
    world.wanted = order()
    assert world.look([]) == {NET: 1}


def test_autoscaling_that_is_turned_on_begins_with_what_runs() -> None:
    fixed = order()
    fixed.stored.spec.deployments[0].ClearField("autoscaling")
    world = World(fixed)
    world.scaling.restore(status(2))
    world.look(rows(10))
    world.wanted = order(low=2)
    assert world.look(rows(10)) == {NET: 10}


def test_load_is_followed() -> None:
    world = World(order())
    assert world.run(rows(2), seconds=5, in_flight=40) == 8


def test_processes_of_the_same_number_on_two_nodes_are_two() -> None:
    world = World(order())
    assert world.run(rows(3, same_pid=True), seconds=5, in_flight=40) == 12


def test_who_does_not_answer_any_more_keeps_the_size() -> None:
    world = World(order())
    replicas = rows(4)
    world.run(replicas, seconds=5, in_flight=10)
    world.now += FRESH_S
    for _ in range(100):
        assert world.look(replicas) == {NET: 4}
    assert world.run(replicas, seconds=20, in_flight=0) == 1, "until they say that there is nothing to do"


def test_bounds_count_without_any_load_known() -> None:
    world = World(order())
    world.look(rows(12))
    world.wanted = order(high=6)
    assert world.look(rows(12)) == {NET: 6}


def test_what_proxies_hold_counts_for_the_only_deployment_behind_them() -> None:
    front = rows(1, deployment="grpc")
    for others, expected in ((0, 4), (1, 1)):
        world = World(order(proxies=True, others=others))
        replicas = rows(1)
        for _ in range(20):
            world.hear(replicas)
            world.hear(front, waiting=40)
            world.look([*replicas, *front])
        assert world.scaling.sizes == {NET: expected}


def test_proxies_count_what_they_hold_once() -> None:
    wanted = order(proxies=True)
    proxies = wanted.stored.spec.deployments[1]
    proxies.replicas.max = 20
    proxies.autoscaling.MergeFrom(pb.Autoscaling(target_ongoing=10, window_s=2))
    world = World(wanted)
    replicas, front = rows(1), rows(1, deployment="grpc")
    for _ in range(20):
        world.hear(replicas)
        world.hear(front, in_flight=100, waiting=100)
        world.look([*replicas, *front])
    assert world.scaling.sizes["grpc"] == 10


def test_decisions_are_told_and_remembered() -> None:
    world = World(order())
    world.run(rows(2), seconds=5, in_flight=40)
    told = status(8)
    world.scaling.tell(told)
    assert told.deployments[0].scaling[-1].after == 8
    later = Scaling()
    later.restore(told)
    later.follow(order(), rows(8))
    again = status(8)
    later.tell(again)
    assert list(again.deployments[0].scaling) == list(told.deployments[0].scaling)
