"""The sizes of an application's deployments: what replicas report goes in, how many are wanted comes out."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from serving._proto import records_pb2 as pb
from serving.master.autoscaling import Autoscaler, Decision, Sample, ScalingPolicy
from serving.master.model import Load, Replica, Report
from serving.master.names import ReplicaName
from serving.master.phases import ReplicaState
from serving.schedule import DAYS, ScheduledMinimum, minute_of_day

_LOG: Final = logging.getLogger(__name__)
SAMPLE_S: Final = 0.5  # between two samples
KEPT_DECISIONS: Final = 10
_WINDOW_S: Final = 10.0
_DOWN_DELAY_S: Final = 120.0

Reports = Callable[[ReplicaName], Report | None]


@dataclass(slots=True)
class _Scaled:
    """One deployment. `last` is what each of its processes, by pid, had done at the last sample."""

    scaler: Autoscaler
    decisions: deque[Decision] = field(default_factory=lambda: deque(maxlen=KEPT_DECISIONS))
    last: Mapping[int, Load] = field(default_factory=dict)
    sampled_at: float = 0.0


class Scaling:
    """Belongs to one application; its time is unix seconds."""

    def __init__(self) -> None:
        self._scaled: dict[str, _Scaled] = {}
        self._known: Mapping[str, pb.DeploymentStatus] = {}

    def restore(self, status: pb.ApplicationStatus | None) -> None:
        """What a master before this one had decided. Before the first `follow`."""
        self._known = {found.name: found for found in status.deployments} if status is not None else {}

    def follow(self, order: pb.Placement) -> None:
        """Takes over what the order says of autoscaling."""
        wanted = {spec.name: spec for spec in order.stored.spec.deployments if spec.HasField("autoscaling")}
        for name in self._scaled.keys() - wanted.keys():
            del self._scaled[name]
        for name, spec in wanted.items():
            policy = policy_of(spec)
            if name in self._scaled:
                self._scaled[name].scaler.adopt(policy)
            else:
                self._scaled[name] = self._begin(name, policy)

    def _begin(self, name: str, policy: ScalingPolicy) -> _Scaled:
        """With the size that the deployment had, or the least; a first replica shows that the revision works."""
        known = self._known.get(name)
        size = known.wanted if known is not None else max(1, policy.least)
        made = _Scaled(Autoscaler(policy, min(max(size, policy.least), policy.most)))
        for told in known.scaling if known is not None else ():
            at = told.at.ToNanoseconds() / 1e9
            made.decisions.append(Decision(at, told.before, told.after, told.reason))
        return made

    @property
    def sizes(self) -> dict[str, int]:
        return {name: scaled.scaler.size for name, scaled in self._scaled.items()}

    def look(self, order: pb.Placement, rows: Iterable[Replica], reports: Reports, now: float) -> None:
        """One sample of each deployment whose ready replicas have all said what they do, and what follows from it."""
        own = [row for row in rows if row.name.generation == order.generation]
        waiting = _waiting(order, own, reports)
        for name, scaled in self._scaled.items():
            if now < scaled.sampled_at + SAMPLE_S:
                continue
            mine = [row for row in own if row.name.deployment == name]
            sample = _sample(scaled, mine, reports, self._share_of(order, name, waiting), now)
            if sample is not None:
                scaled.scaler.observe(sample)
            decision = scaled.scaler.decide(now)
            if decision is not None:
                scaled.decisions.append(decision)
                keys = {"deployment": name, "from": decision.before, "to": decision.after, "why": decision.reason}
                _LOG.info("number of replicas changes", extra=keys)

    def _share_of(self, order: pb.Placement, name: str, waiting: int) -> int:
        """Requests that proxies hold count for the only deployment, or else for each that has no replica at all."""
        others = [spec for spec in order.stored.spec.deployments if not spec.HasField("proxy")]
        return waiting if len(others) == 1 or self._scaled[name].scaler.size == 0 else 0

    def tell(self, status: pb.ApplicationStatus) -> None:
        """Adds the last decisions to a status."""
        for deployment in status.deployments:
            scaled = self._scaled.get(deployment.name)
            for made in scaled.decisions if scaled is not None else ():
                told = pb.ScaleDecision(before=made.before, after=made.after, reason=made.reason)
                told.at.CopyFrom(_timestamp(made.at))
                deployment.scaling.append(told)


def policy_of(spec: pb.DeploymentSpec) -> ScalingPolicy:
    """What a valid specification says, with its defaults."""
    wanted = spec.autoscaling
    return ScalingPolicy(
        least=spec.replicas.min,
        most=spec.replicas.max,
        ongoing=wanted.target_ongoing,
        requests_per_s=wanted.target_requests_per_s,
        cpu_cores=wanted.target_cpu * spec.resources.cpus,
        p99_s=wanted.target_p99_s,
        window_s=wanted.window_s or _WINDOW_S,
        up_delay_s=wanted.up_delay_s,
        down_delay_s=wanted.down_delay_s or _DOWN_DELAY_S,
        max_step_up=wanted.max_step_up,
        max_step_down=wanted.max_step_down,
        schedule=tuple(_scheduled(entry) for entry in wanted.schedule),
    )


def _scheduled(entry: pb.ScheduledMinimum) -> ScheduledMinimum:
    days = frozenset(DAYS.index(day) for day in entry.days) or frozenset(range(len(DAYS)))
    return ScheduledMinimum(minute_of_day(entry.begin), minute_of_day(entry.until), entry.min, days)


def _waiting(order: pb.Placement, rows: Iterable[Replica], reports: Reports) -> int:
    """Requests that the application's proxies hold."""
    proxies = {spec.name for spec in order.stored.spec.deployments if spec.HasField("proxy")}
    loads = [_load_of(row, reports) for row in rows if row.name.deployment in proxies]
    return sum(load.waiting for load in loads if load is not None)


def _sample(scaled: _Scaled, rows: list[Replica], reports: Reports, waiting: int, now: float) -> Sample | None:
    """None while a ready replica has not said what it does: its share must not be taken for nothing."""
    ready = [row for row in rows if row.state is ReplicaState.READY and not row.retired]
    found = {row.pid: _load_of(row, reports) for row in ready}
    loads = {pid: load for pid, load in found.items() if load is not None}
    if len(loads) < len(ready):
        return None
    took_s, before = now - scaled.sampled_at, scaled.last
    scaled.last, scaled.sampled_at = loads, now
    # A process that is new since the last sample says nothing of this span yet.
    pairs = [(before[pid], load) for pid, load in loads.items() if pid in before]
    requests = sum(new.requests - old.requests for old, new in pairs)
    within: dict[float, int] = {}
    for old, new in pairs:
        for (bound, count), (_, earlier) in zip(new.within, old.within, strict=False):
            within[bound] = within.get(bound, 0) + count - earlier
    return Sample(
        at=now,
        ongoing=sum(load.in_flight for load in loads.values()) + waiting,
        requests_per_s=requests / took_s,
        cpu_cores=sum(new.cpu_s - old.cpu_s for old, new in pairs) / took_s,
        within=tuple(sorted(within.items())),
        requests=requests,
    )


def _load_of(row: Replica, reports: Reports) -> Load | None:
    report = reports(row.name)
    return report.load if report is not None and report.pid == row.pid else None


def _timestamp(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMilliseconds(round(seconds * 1000))
    return stamp
