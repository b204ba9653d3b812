"""Replicas that answer, but much more slowly than the others of their deployment: they are replaced, one at a time.

Clients and proxies send them little already, as they choose by latency; what is left is to get a good one instead.
Only the others of the same deployment are a measure: load, model and data differ between deployments.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from serving._proto import records_pb2 as pb
from serving.master.autoscaling import Sample, percentile
from serving.master.model import DrainReplica, Goal, Load, Replica, Report, Situation, load_of
from serving.master.names import ReplicaName
from serving.master.phases import ReplicaState

FACTOR: Final = 10.0
AFTER_S: Final = 60.0
WINDOW_S: Final = 60.0  # over which times are looked at
SAMPLE_S: Final = 2.0
FEWEST_JUDGED: Final = 3  # requests of a replica in the window: a slow one gets one in some ten seconds
FEWEST_MEASURE: Final = 20  # of one that others are compared with
FEWEST_OTHERS: Final = 2
PAUSE_S: Final = (
    600.0  # between two replacements in one deployment: if it is not the replica, it must not go on for ever
)

_Process = tuple[str, int]  # a replica's id and the pid on its node


@dataclass(frozen=True, slots=True)
class SlowRule:
    """A replica is slow whose median time is more than `factor` times that of the others, for `after_s`."""

    factor: float = FACTOR
    after_s: float = AFTER_S


@dataclass(slots=True)
class _Watched:
    """One deployment."""

    seen: dict[_Process, deque[tuple[float, Load]]] = field(default_factory=dict)
    slow_since: dict[_Process, float] = field(default_factory=dict)
    sampled_at: float = -math.inf
    replaced_at: float = -math.inf


def rule_of(spec: pb.DeploymentSpec) -> SlowRule | None:
    """What a valid specification says, with its defaults; None where slow ones stay."""
    wanted = spec.replace_slow
    factor = wanted.factor if wanted.HasField("factor") else FACTOR
    return SlowRule(factor, wanted.after_s or AFTER_S) if factor and not spec.HasField("proxy") else None


class Slowness:
    """Belongs to one application's master. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._watched: dict[str, _Watched] = {}

    def look(
        self,
        situation: Situation,
        order: pb.Placement,
        reports: Callable[[ReplicaName], Report | None],
        now: float,
    ) -> tuple[DrainReplica, ...]:
        """Whom to drain, so that another one is started; at most one of a deployment, and none while it changes."""
        if situation.stopping:
            return ()
        rules = {spec.name: rule for spec in order.stored.spec.deployments if (rule := rule_of(spec)) is not None}
        self._watched = {name: self._watched.get(name, _Watched()) for name in rules}
        mine = [row for row in situation.replicas if row.name.generation == order.generation and row.present]
        found: list[DrainReplica] = []
        for goal in situation.goals:
            watched = self._watched.get(goal.deployment)
            if watched is None or now < watched.sampled_at + SAMPLE_S:
                continue
            watched.sampled_at = now
            deployed = [row for row in mine if row.name.deployment == goal.deployment]
            _remember(watched, deployed, reports, now)
            rule = rules[goal.deployment]
            _judge(watched, rule, now)
            worst = _worst(watched, rule, now)
            if worst is None or not _is_steady(goal, deployed) or now < watched.replaced_at + PAUSE_S:
                continue
            watched.replaced_at = now
            took = _medians(watched, FEWEST_JUDGED)[worst]
            others = _of_others(watched, worst) or 0.0
            name = next(row.name for row in deployed if (row.id, row.pid) == worst)
            why = f"it takes {_ms(took)} where the others take {_ms(others)}"
            found.append(DrainReplica(name, goal.drain_timeout_s, why))
        return tuple(found)


def _is_steady(goal: Goal, rows: list[Replica]) -> bool:
    """All that are wanted are there and nothing else is: a replacement does not make too few of them."""
    ready = [row for row in rows if row.state is ReplicaState.READY and not row.retired and goal.is_current(row)]
    return len(ready) == len(rows) >= goal.replicas and not goal.stands and goal.trial is None


def _remember(
    watched: _Watched, rows: list[Replica], reports: Callable[[ReplicaName], Report | None], now: float
) -> None:
    living: set[_Process] = set()
    for row in rows:
        load = load_of(row, reports(row.name))
        if row.state is not ReplicaState.READY or row.retired or load is None:
            continue
        process = (row.id, row.pid)
        living.add(process)
        loads = watched.seen.setdefault(process, deque())
        loads.append((now, load))
        while loads[0][0] < now - WINDOW_S:
            loads.popleft()
    watched.seen = {process: loads for process, loads in watched.seen.items() if process in living}


def _medians(watched: _Watched, fewest: int) -> Mapping[_Process, float]:
    """Seconds, of those that have answered so many requests in the window."""
    found: dict[_Process, float] = {}
    for process, loads in watched.seen.items():
        first, last = loads[0][1], loads[-1][1]
        requests = last.requests - first.requests
        if requests < fewest:
            continue
        earlier = dict(first.within)
        within = tuple((bound, count - earlier.get(bound, 0)) for bound, count in last.within)
        found[process] = percentile([Sample(0.0, 0.0, within=within, requests=requests)], 0.5)
    return found


def _of_others(watched: _Watched, judged: _Process) -> float | None:
    """The median of the others' times; None where too few of them have answered enough."""
    others = [time for process, time in _medians(watched, FEWEST_MEASURE).items() if process != judged]
    return median(others) if len(others) >= FEWEST_OTHERS else None


def _judge(watched: _Watched, rule: SlowRule, now: float) -> None:
    """Since when which are slow. One that cannot be judged now keeps what was said of it."""
    times = _medians(watched, FEWEST_JUDGED)
    since: dict[_Process, float] = {}
    for process in watched.seen:
        others = _of_others(watched, process)
        if process not in times or others is None:
            if process in watched.slow_since:
                since[process] = watched.slow_since[process]
        elif times[process] > rule.factor * others:
            since[process] = watched.slow_since.get(process, now)
    watched.slow_since = since


def _worst(watched: _Watched, rule: SlowRule, now: float) -> _Process | None:
    """The slowest of those that have been slow for long enough, and still are known to be."""
    times = _medians(watched, FEWEST_JUDGED)
    due = [
        process
        for process, since in watched.slow_since.items()
        if now - since >= rule.after_s and process in times and _of_others(watched, process) is not None
    ]
    return max(due, key=lambda process: times[process], default=None)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"
