"""The sizes of an application's deployments: what replicas report goes in, how many are wanted comes out."""

from __future__ import annotations

import json
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from serving._proto import records_pb2 as pb
from serving.master.autoscaling import Autoscaler, Decision, Expected, Sample, ScalingPolicy
from serving.master.backlog import FRESH_S, Backlog, backlogs
from serving.master.custom_policy import Answer
from serving.master.forecast import Pattern
from serving.master.model import Load, Replica, Report, load_of
from serving.master.names import ReplicaName
from serving.master.phases import ReplicaState
from serving.schedule import DAYS, ScheduledMinimum, minute_of_day
from serving.sdk.scaling import ScalingLoad
from serving.stamps import stamp

_LOG: Final = logging.getLogger(__name__)
SAMPLE_S: Final = 0.5  # between two samples
KEPT_DECISIONS: Final = 10
_WINDOW_S: Final = 10.0
_DOWN_DELAY_S: Final = 120.0
_DAY_S: Final = 86_400.0
_AHEAD_S: Final = 300.0

_Process = tuple[str, int]  # a replica's id and the pid on its node
Reports = Callable[[ReplicaName], Report | None]


class AsksPolicies(Protocol):
    """`serving.master.custom_policy.CustomPolicies`."""

    def ask(self, deployment: str, record: pb.ScalingFunction, load: ScalingLoad) -> Answer | None: ...

    def keep(self, deployments: Mapping[str, object]) -> None: ...


@dataclass(slots=True)
class _Scaled:
    """One deployment. `last` is what each of its processes had done at the last sample."""

    scaler: Autoscaler
    fronts: bool  # it is of proxies
    pattern: Pattern | None = None  # where there is to be a forecast
    ahead_s: float = 0.0
    function: pb.ScalingFunction | None = None  # of the user's
    decisions: deque[Decision] = field(default_factory=lambda: deque(maxlen=KEPT_DECISIONS))
    last: Mapping[_Process, Load] = field(default_factory=dict)
    sampled_at: float = -math.inf


class Scaling:
    """Belongs to one application. Times are monotonic seconds, but for those of decisions, which are unix seconds."""

    def __init__(self, policies: AsksPolicies | None = None) -> None:
        """`policies` asks functions of users; without it none is asked."""
        self._policies = policies
        self._scaled: dict[str, _Scaled] = {}
        self._known: dict[str, pb.DeploymentStatus] = {}
        self._patterns: dict[str, pb.LoadPattern] = {}
        self.busy: dict[str, frozenset[str]] = {}  # by deployment, ids of replicas whose items a drain would cut off
        self.recalled = False
        self.history_changed = False  # since `history` was asked for

    def restore(self, status: pb.ApplicationStatus | None) -> None:
        """What a master before this one had decided. Before the first `follow`."""
        self._known = {found.name: found for found in status.deployments} if status is not None else {}

    def recall(self, history: pb.LoadHistory | None) -> None:
        """What load masters before this one had seen, once that is known. Before it there are no forecasts."""
        self._patterns = {found.deployment: found for found in history.patterns} if history is not None else {}
        self.recalled = True

    def follow(self, order: pb.Placement, rows: Iterable[Replica]) -> None:
        """Takes over what the order says of autoscaling. `rows` are the replicas that there are."""
        wanted = {spec.name: spec for spec in order.stored.spec.deployments if spec.HasField("autoscaling")}
        for name in self._scaled.keys() - wanted.keys():
            del self._scaled[name]
        for name, spec in wanted.items():
            if name in self._scaled:
                self._scaled[name].scaler.adopt(policy_of(spec))
            else:
                running = [row for row in rows if row.name.deployment == name and _counts(row, order.generation)]
                self._scaled[name] = self._begin(spec, len(running))
            self._foresee(self._scaled[name], spec)
            asks = spec.autoscaling.HasField("policy")
            self._scaled[name].function = spec.autoscaling.policy if asks else None
        if self._policies is not None:
            self._policies.keep({name: 1 for name, scaled in self._scaled.items() if scaled.function is not None})

    def _foresee(self, scaled: _Scaled, spec: pb.DeploymentSpec) -> None:
        if not spec.autoscaling.HasField("forecast") or not self.recalled:
            scaled.pattern, scaled.scaler.expected = None, Expected()
            return
        wanted = spec.autoscaling.forecast
        period_s, scaled.ahead_s = wanted.period_s or _DAY_S, wanted.ahead_s or _AHEAD_S
        if scaled.pattern is None or scaled.pattern.period_s != period_s:
            known = self._patterns.get(spec.name, pb.LoadPattern())
            values = list(zip(known.ongoing, known.requests_per_s, known.cpu_cores, strict=False))
            scaled.pattern = Pattern(period_s, values if known.period_s == period_s else [])

    def _ask(self, name: str, scaled: _Scaled, unix_s: float) -> None:
        """The answer is that to a load of some samples before: nothing waits for it."""
        function = scaled.function
        if function is None or self._policies is None:
            return
        args = json.loads(function.args) if function.args else {}
        answer = self._policies.ask(name, function, replace(scaled.scaler.load(unix_s), args=args))
        scaled.scaler.custom = None
        if answer is not None and answer.problem:
            scaled.scaler.custom = scaled.scaler.size, f"{function.entry}: {answer.problem}"
        elif answer is not None:
            scaled.scaler.custom = answer.size, f"{function.entry} asks for {answer.size:.3g}"

    def history(self, order: pb.Placement) -> pb.LoadHistory:
        """What forecasts are made of, to be stored."""
        self.history_changed = False
        made = pb.LoadHistory(
            namespace=order.stored.spec.namespace,
            name=order.stored.spec.name,
            uid=order.stored.uid,
            generation=order.generation,
        )
        for name, scaled in sorted(self._scaled.items()):
            if scaled.pattern is not None:
                ongoing, rate, cores = zip(*scaled.pattern.values, strict=True)
                made.patterns.add(
                    deployment=name,
                    period_s=scaled.pattern.period_s,
                    ongoing=ongoing,
                    requests_per_s=rate,
                    cpu_cores=cores,
                )
        return made

    def _begin(self, spec: pb.DeploymentSpec, running: int) -> _Scaled:
        """With the number that runs; where none does, with the size before, or the least, but at least one.

        Whatever etcd says or does not say, a master that begins takes nothing away.
        """
        known, policy = self._known.pop(spec.name, None), policy_of(spec)
        size = running or (known.wanted if known is not None else max(1, policy.least))
        made = _Scaled(Autoscaler(policy, min(max(size, policy.least), policy.most)), spec.HasField("proxy"))
        for told in known.scaling if known is not None else ():
            at = told.at.ToNanoseconds() / 1e9
            made.decisions.append(Decision(at, told.before, told.after, told.reason))
        return made

    @property
    def sizes(self) -> dict[str, int]:
        return {name: scaled.scaler.size for name, scaled in self._scaled.items()}

    def counted(self, order: pb.Placement) -> set[str]:
        """Deployments whose load matters for a size: those that are scaled, and those that hold requests for them."""
        specs = order.stored.spec.deployments if self._scaled else ()
        return {
            one.name for one in specs if one.HasField("autoscaling") or one.HasField("proxy") or one.HasField("broker")
        }

    def look(self, order: pb.Placement, rows: Iterable[Replica], reports: Reports, now: float, unix_s: float) -> None:
        """One sample of each deployment whose ready replicas have all said what they do, and what follows from it."""
        own = [row for row in rows if row.name.generation == order.generation]
        waiting, queues = _waiting(order, own, reports, now), backlogs(order, own, reports, now)
        self.busy = {name: backlog.busy for name, backlog in queues.items() if backlog.busy}
        for name, scaled in self._scaled.items():
            if now < scaled.sampled_at + SAMPLE_S:
                continue
            mine = [row for row in own if row.name.deployment == name]
            sample = _sample(scaled, mine, reports, 0 if scaled.fronts else waiting, queues.get(name), now)
            if sample is None:
                decision = scaled.scaler.keep_within(now, unix_s)
            else:
                scaled.scaler.observe(sample)
                if scaled.pattern is not None:
                    self.history_changed |= scaled.pattern.observe(sample, unix_s)
                    scaled.scaler.expected = scaled.pattern.expected(unix_s, scaled.ahead_s)
                self._ask(name, scaled, unix_s)
                decision = scaled.scaler.decide(now, unix_s)
            if decision is not None:
                scaled.decisions.append(decision)
                keys = {"deployment": name, "from": decision.before, "to": decision.after, "why": decision.reason}
                _LOG.info("number of replicas changes", extra=keys)

    def tell(self, status: pb.ApplicationStatus) -> None:
        """Adds the last decisions to a status."""
        for deployment in status.deployments:
            scaled = self._scaled.get(deployment.name)
            for made in scaled.decisions if scaled is not None else ():
                told = pb.ScaleDecision(before=made.before, after=made.after, reason=made.reason)
                told.at.CopyFrom(stamp(made.at))
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
        queue_age_s=wanted.target_queue_age_s,
        window_s=wanted.window_s or _WINDOW_S,
        up_delay_s=wanted.up_delay_s,
        down_delay_s=wanted.down_delay_s or _DOWN_DELAY_S,
        max_step_up=wanted.max_step_up,
        max_step_down=wanted.max_step_down,
        schedule=tuple(_scheduled(entry) for entry in wanted.schedule),
        custom=wanted.HasField("policy"),
    )


def _scheduled(entry: pb.ScheduledMinimum) -> ScheduledMinimum:
    days = frozenset(DAYS.index(day) for day in entry.days) or frozenset(range(len(DAYS)))
    return ScheduledMinimum(minute_of_day(entry.begin), minute_of_day(entry.until), entry.min, days)


def _counts(row: Replica, generation: int) -> bool:
    living = row.state not in (ReplicaState.FAILED, ReplicaState.STOPPED, ReplicaState.DRAINING)
    return row.name.generation == generation and row.present and living and not row.retired


def _waiting(order: pb.Placement, rows: Iterable[Replica], reports: Reports, now: float) -> int:
    """Requests that the application's proxies hold for its replicas; 0 where it cannot be said for which."""
    proxies = {spec.name for spec in order.stored.spec.deployments if spec.HasField("proxy")}
    if len(order.stored.spec.deployments) - len(proxies) != 1:
        return 0
    loads = [_load_of(row, reports, now) for row in rows if row.name.deployment in proxies]
    return sum(load.waiting for load in loads if load is not None)


def _sample(
    scaled: _Scaled, rows: list[Replica], reports: Reports, waiting: int, backlog: Backlog | None, now: float
) -> Sample | None:
    """None while a ready replica has not said lately what it does: its share must not be taken for nothing."""
    ready = [row for row in rows if row.state is ReplicaState.READY and not row.retired]
    found = {(row.id, row.pid): _load_of(row, reports, now) for row in ready}
    loads = {process: load for process, load in found.items() if load is not None}
    if len(loads) < len(ready):
        return None
    took_s, before = now - scaled.sampled_at, scaled.last
    scaled.last, scaled.sampled_at = loads, now
    # A process that is new since the last sample says nothing of this span yet.
    pairs = [(before[process], load) for process, load in loads.items() if process in before]
    requests = sum(new.requests - old.requests for old, new in pairs)
    within: dict[float, int] = {}
    for old, new in pairs:
        for (bound, count), (_, earlier) in zip(new.within, old.within, strict=False):
            within[bound] = within.get(bound, 0) + count - earlier
    return Sample(
        at=now,
        ongoing=_ongoing(sum(load.in_flight for load in loads.values()), backlog, scaled.scaler.policy) + waiting,
        requests_per_s=requests / took_s,
        cpu_cores=sum(new.cpu_s - old.cpu_s for old, new in pairs) / took_s,
        within=tuple(sorted(within.items())),
        requests=requests,
        ready=len(ready),
        backlog=backlog,
    )


def _ongoing(in_flight: int, backlog: Backlog | None, policy: ScalingPolicy) -> int:
    """Requests that run or wait, those at brokers included unless their age says how many replicas they need."""
    if backlog is None or policy.queue_age_s > 0:
        return in_flight
    return max(in_flight, backlog.running) + backlog.queued  # replicas count what they run for brokers, too


def _load_of(row: Replica, reports: Reports, now: float) -> Load | None:
    """What this process said lately; None for what it said too long ago, or what another one did."""
    report = reports(row.name)
    return load_of(row, report) if report is not None and now - report.heard_at <= FRESH_S else None
