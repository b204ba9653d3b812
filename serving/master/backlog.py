"""What waits at brokers for a deployment, as they tell it. Pure; `now` is in monotonic seconds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

from serving._proto import records_pb2 as pb
from serving.broker.pulled import with_pulled
from serving.master.model import QueueLoad, Replica, Report, load_of
from serving.master.names import ReplicaName
from serving.master.phases import ReplicaState
from serving.master.plan import DEFAULT_DRAIN_S

FRESH_S: Final = 3.0  # what a process said longer ago counts as nothing


@dataclass(frozen=True, slots=True)
class Backlog:
    """Of all brokers of a deployment together. `known`: all of them have said lately what they hold."""

    known: bool
    queued: int = 0
    running: int = 0
    oldest_age_s: float = 0.0
    work_s: float = 0.0
    places: int = 0
    replicas: int = 0
    busy: frozenset[str] = frozenset()  # ids of replicas with an item that has run for longer than a drain may take

    @property
    def items(self) -> int:
        return self.queued + self.running

    @property
    def places_per_replica(self) -> float:
        """Items that a replica holds or would take; 0.0 while none pulls. Each pulls from every broker."""
        return max(1.0, self.places / self.replicas) if self.replicas else 0.0


def backlogs(
    order: pb.Placement, rows: Collection[Replica], reports: Callable[[ReplicaName], Report | None], now: float
) -> dict[str, Backlog]:
    """By deployment, of those that have brokers. `rows` are of the order's generation."""
    spec = order.stored.spec
    brokers = {one.name: with_pulled(one, spec).broker.before for one in spec.deployments if one.HasField("broker")}
    wanted = {one.name: one.replicas.min for one in spec.deployments if one.name in brokers}
    found = {row.name: _queues(row, reports(row.name), now) for row in rows}
    fronting: dict[str, dict[str, int]] = {}
    for name, before in brokers.items():
        for deployment in before:
            fronting.setdefault(deployment, {})[name] = wanted[name]
    drains = {one.name: one.drain_timeout_s or DEFAULT_DRAIN_S for one in spec.deployments}
    return {
        deployment: _backlog(deployment, those, rows, found, drains.get(deployment, DEFAULT_DRAIN_S))
        for deployment, those in fronting.items()
    }


def _queues(row: Replica, report: Report | None, now: float) -> dict[str, QueueLoad] | None:
    """None where nobody knows."""
    load = load_of(row, report)
    fresh = report is not None and now - report.heard_at <= FRESH_S
    return dict(load.queues) if load is not None and load.queues is not None and fresh else None


def _backlog(
    deployment: str,
    wanted: dict[str, int],
    rows: Iterable[Replica],
    found: dict[ReplicaName, dict[str, QueueLoad] | None],
    drain_timeout_s: float,
) -> Backlog:
    """`wanted` is how many there should be of each deployment of brokers: of one that is missing nobody knows.

    What has run for so long is taken to run as long again: a drain would cut off what has run for longer than its
    time, and no more than that keeps replicas.

    One that drains tells what it has, until it hands its journals over: for that moment nobody knows either.
    """
    brokers = [row for row in rows if row.name.deployment in wanted and row.present]
    settled = [row for row in brokers if row.state is ReplicaState.READY and not row.retired and found[row.name]]
    loads = [queues.get(deployment, QueueLoad()) for row in brokers if (queues := found[row.name]) is not None]
    return Backlog(
        known=len(settled) == len(brokers) >= sum(wanted.values()),
        queued=sum(load.queued for load in loads),
        running=sum(load.running for load in loads),
        oldest_age_s=max((load.oldest_age_s for load in loads), default=0.0),
        work_s=sum(load.work_s for load in loads),
        places=sum(load.places for load in loads),
        replicas=max((load.replicas for load in loads), default=0),
        busy=frozenset(
            replica for load in loads for replica, run_s in load.longest_run_s.items() if run_s > drain_timeout_s
        ),
    )
