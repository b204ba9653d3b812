"""The canaries of an application, and with them how its requests are shared: what stands in etcd, what should next.

A state counts once it is written. What it asks for is done after that: before a new replica starts, every client knows
that it gets nothing yet.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from serving._proto import records_pb2 as pb
from serving.master import canary
from serving.master.canary import ALL, FAILED, FINISHING, CanaryPolicy, Look, Progress, Sides, Step
from serving.master.crash_loop import BackoffLimits
from serving.master.evidence import Witness
from serving.master.metrics import CanaryNumbers
from serving.master.model import CrashLoop, Goal, Replica, Report
from serving.master.names import ReplicaName
from serving.master.phases import ReplicaState
from serving.stamps import stamp

_LOG: Final = logging.getLogger(__name__)
NEW: Final = "new"
OLD: Final = "old"
ABANDONED: Final = "abandoned"
MAX_REASON: Final = 500  # letters: every client reads the record
_ERROR_RATE: Final = 0.05
_REQUESTS: Final = 20

Specs = Mapping[int, pb.ApplicationSpec | None]
Reports = Callable[[ReplicaName], Report | None]


@dataclass(frozen=True, slots=True)
class Picture:
    """What `Canaries` looks at. `stored` is the record in etcd; times are unix seconds, but for `monotonic_s`."""

    order: pb.Placement
    stored: pb.TrafficRecord | None
    rows: Collection[Replica]
    loops: Mapping[str, CrashLoop]
    specs: Specs
    reports: Reports
    now: float
    monotonic_s: float


class Canaries:
    """Belongs to one application's master."""

    def __init__(self) -> None:
        self._witnesses: dict[str, Witness] = {}
        self._told: dict[str, pb.CanaryStatus] = {}
        self._states: dict[str, Progress] = {}
        self._refills: dict[str, _Refill] = {}
        self._logged: dict[str, tuple[str, int, int] | None] = {}

    def needed(self, order: pb.Placement) -> bool:
        """False where the order says nothing of traffic: then there is a record only if there was one before."""
        spec = order.stored.spec
        return bool(spec.traffic) or any(one.rollout.HasField("canary") for one in spec.deployments)

    @property
    def watched(self) -> frozenset[str]:
        """Deployments whose replicas are judged by what they answer."""
        return frozenset(name for name, state in self._states.items() if state.phase == canary.STEPPING)

    @property
    def numbers(self) -> dict[str, CanaryNumbers]:
        """For the metrics' thread: a look replaces the states, and changes none."""
        return {
            name: CanaryNumbers(state.weight / ALL, state.step + 1, state.phase == FAILED)
            for name, state in self._states.items()
        }

    @property
    def revisions(self) -> frozenset[int]:
        """Those whose specs must be known: what is tried, and what old replicas are replaced by."""
        states = self._states.values()
        return frozenset({state.revision for state in states} | {state.stable for state in states if state.stable})

    def hold(self, goals: tuple[Goal, ...], order: pb.Placement) -> tuple[Goal, ...]:
        """While it is not known what stands in etcd: what may be under a canary stays as it is."""
        names = {one.name for one in order.stored.spec.deployments if one.rollout.HasField("canary")}
        return tuple(replace(goal, held=goal.deployment in names) for goal in goals)

    def look(self, goals: Iterable[Goal], picture: Picture) -> tuple[tuple[Goal, ...], pb.TrafficRecord]:
        """The goals as the stored state allows them, and the record that should stand there next."""
        self._states = states_of(picture.stored, picture.order)
        self._told = {}
        next_states: dict[str, Progress] = {}
        allowed = tuple(self._one(goal, picture, next_states) for goal in goals)
        self._witnesses = {name: one for name, one in self._witnesses.items() if name in next_states}
        return allowed, _numbered(record_of(picture.order, next_states), picture.stored)

    def _one(self, goal: Goal, picture: Picture, next_states: dict[str, Progress]) -> Goal:
        name, order = goal.deployment, picture.order
        spec = next(one for one in order.stored.spec.deployments if one.name == name)
        known, policy = self._states.get(name), policy_of(spec)
        if known is None and policy is None:
            return goal
        rows = [row for row in picture.rows if row.name.deployment == name and row.name.generation == order.generation]
        if goal.unknown or any(row.unheard for row in rows) or not _is_known(known, goal, picture.specs):
            if known is not None:  # it cannot be said who is old, or who serves
                next_states[name] = known
            return replace(goal, held=True)
        witness = self._witnesses.setdefault(name, Witness())
        since = known.since if known is not None else 0.0
        witness.look(since, goal, rows, picture.reports, picture.monotonic_s)
        look = Look(
            sides=Sides.of(goal, rows, picture.now),
            new=witness.new,
            old=witness.old,
            loop=picture.loops.get(name),
            promoted=order.stored.promoted,
            retry=_other_rules(known, spec, picture.specs),
            refill_at=self._refill_at(name, known, rows, picture.now),
        )
        state = canary.advance(known, goal, policy, look, picture.now)
        self._log(name, known, state)
        if state is not None:
            next_states[name] = state
            self._told[name] = _status(_told_of(known, state, goal), goal, policy, look, picture.now)
        return _allowed(goal, known, state, policy, look.refill_at)

    def _refill_at(self, name: str, known: Progress | None, rows: list[Replica], now: float) -> float:
        """When an old replica may be started again: those that do not start are tried after growing pauses."""
        if known is None:
            self._refills.pop(name, None)
            return 0.0
        refill = self._refills.setdefault(name, _Refill())
        old = [row for row in rows if row.revision not in known.revisions]
        failed = {row.id for row in old if row.state is ReplicaState.FAILED}
        if failed - refill.failed:
            refill.failures += 1
            refill.at = now + BackoffLimits().wait_s(refill.failures)
        elif any(row.state is ReplicaState.READY and row.since > refill.at for row in old):
            refill.failures = 0
        refill.failed = failed
        return refill.at

    def _log(self, deployment: str, before: Progress | None, after: Progress | None) -> None:
        was, becomes = _shape(before), _shape(after)
        if becomes == was or becomes == self._logged.get(deployment, was):
            return
        self._logged[deployment] = becomes
        if after is None:
            _LOG.info("canary is over", extra={"deployment": deployment})
            return
        keys = {"deployment": deployment, "phase": after.phase, "step": after.step + 1, "percent": after.weight / 100}
        level = logging.WARNING if after.phase == FAILED else logging.INFO
        _LOG.log(level, "canary changes", extra=keys | {"why": after.reason})

    def tell(self, status: pb.ApplicationStatus) -> None:
        """Adds where canaries are to a status."""
        for deployment in status.deployments:
            told = self._told.get(deployment.name)
            if told is not None:
                deployment.canary.CopyFrom(told)


@dataclass(slots=True)
class _Refill:
    """Old replicas of one deployment that were started again and have failed."""

    failed: set[str] = field(default_factory=set)  # ids that are seen so now
    failures: int = 0  # in a row
    at: float = 0.0  # unix seconds


def _allowed(
    goal: Goal, known: Progress | None, state: Progress | None, policy: CanaryPolicy | None, refill_at: float
) -> Goal:
    """The goal with what the stored state asks for; held until a state that has just begun is stored."""
    if state is None:
        return goal
    if known is None or not _is_of(known, goal):
        return replace(goal, held=True)
    begun_anew = known.phase == FAILED and state.phase != FAILED
    halted = f"its canary has failed: {known.reason}" if known.phase == FAILED and not begun_anew else ""
    return replace(goal, trial=canary.trial(known, goal, policy, refill_at), halted=halted, held=begun_anew)


def _told_of(known: Progress | None, state: Progress, goal: Goal) -> Progress:
    """What the status says: what is stored, unless that is of something else, or of an attempt that is over."""
    if known is None or not _is_of(known, goal) or (known.phase == FAILED and state.phase != FAILED):
        return state
    return known


def _is_known(known: Progress | None, goal: Goal, specs: Specs) -> bool:
    """It can be said whether the stored state is about what is wanted now."""
    return known is None or known.revision == goal.revision or known.revision in specs


def _is_of(known: Progress, goal: Goal) -> bool:
    return known.revision in goal.same | {goal.revision}


def _shape(state: Progress | None) -> tuple[str, int, int] | None:
    return (state.phase, state.step, state.weight) if state is not None else None


def policy_of(spec: pb.DeploymentSpec) -> CanaryPolicy | None:
    """What a valid specification says, with its defaults; None where there is to be no canary."""
    if not spec.rollout.HasField("canary"):
        return None
    wanted, checks = spec.rollout.canary, spec.rollout.canary.checks
    return CanaryPolicy(
        steps=tuple(Step(round(step.weight * ALL / 100), None if step.manual else step.for_s) for step in wanted.steps),
        max_error_rate=checks.max_error_rate if checks.HasField("max_error_rate") else _ERROR_RATE,
        max_p99_s=checks.max_p99_s,
        max_p99_ratio=checks.max_p99_ratio,
        min_requests=checks.min_requests if checks.HasField("min_requests") else _REQUESTS,
    )


def _other_rules(known: Progress | None, wanted: pb.DeploymentSpec, specs: Specs) -> bool:
    """The revision that failed was judged by other rules than those of now."""
    if known is None or known.phase != FAILED:
        return False
    judged = specs.get(known.revision)
    found = next((one for one in judged.deployments if one.name == wanted.name), None) if judged is not None else None
    return found is not None and found.rollout != wanted.rollout


def states_of(stored: pb.TrafficRecord | None, order: pb.Placement) -> dict[str, Progress]:
    """By deployment. What another application of this name had come to counts for nothing.

    On another cluster a canary goes on, and what has failed stays so. What was almost through is through.
    """
    if stored is None or stored.uid != order.stored.uid or stored.generation > order.generation:
        return {}
    moved = stored.generation < order.generation
    return {
        one.deployment: Progress(
            revision=one.revision,
            revisions=frozenset(one.revisions),
            stable=one.stable,
            phase=one.phase,
            step=one.step,
            weight=one.weight,
            since=one.since.ToNanoseconds() / 1e9 if one.HasField("since") else 0.0,
            reason=one.reason,
            abandoned=frozenset(one.abandoned),
            cut_off=one.cut_off,
        )
        for one in stored.canaries
        if not (moved and one.phase == FINISHING)
    }


def _numbered(made: pb.TrafficRecord, stored: pb.TrafficRecord | None) -> pb.TrafficRecord:
    """With the number of the stored version, or the next one where it is another content."""
    if stored is None or stored.generation != made.generation:
        made.version = 1
        return made
    made.version = stored.version
    if made != stored:
        made.version += 1
    return made


def record_of(order: pb.Placement, states: Mapping[str, Progress]) -> pb.TrafficRecord:
    """The splits of the specification, and one of each canary."""
    spec = order.stored.spec
    made = pb.TrafficRecord(
        namespace=spec.namespace,
        name=spec.name,
        uid=order.stored.uid,
        generation=order.generation,
        revision=order.stored.revision,
        splits=spec.traffic,
    )
    rules = {one.name: one.rollout.canary for one in spec.deployments}
    for deployment, state in sorted(states.items()):
        told = made.canaries.add(
            deployment=deployment,
            revision=state.revision,
            phase=state.phase,
            step=state.step,
            weight=state.weight,
            reason=state.reason[:MAX_REASON],
            revisions=sorted(state.revisions),
            stable=state.stable,
            abandoned=sorted(state.abandoned),
            cut_off=state.cut_off,
        )
        if state.since:
            told.since.CopyFrom(stamp(state.since))
        made.splits.append(_split(deployment, state, rules.get(deployment, pb.Canary())))
    return made


def _split(deployment: str, state: Progress, rules: pb.Canary) -> pb.TrafficSplit:
    made = pb.TrafficSplit(name=f"canary-{deployment}", deployment=deployment, key=rules.key)
    made.sides.add(name=NEW, weight=state.weight, revisions=sorted(state.revisions))
    made.sides.add(name=OLD, weight=ALL - state.weight)
    if state.abandoned and state.cut_off:
        made.sides.add(name=ABANDONED, weight=0, revisions=sorted(state.abandoned))
    if state.phase != FAILED:
        for match in rules.matches:
            made.matches.add(header=match.header, value=match.value, side=NEW)
    return made


def _status(state: Progress, goal: Goal, policy: CanaryPolicy | None, look: Look, now: float) -> pb.CanaryStatus:
    steps = len(policy.steps) if policy is not None else 0
    told = pb.CanaryStatus(
        step=min(state.step + 1, steps),
        steps=steps,
        weight=100 * state.weight / ALL,
        phase=state.phase,
        reason=canary.waits_for(state, goal, policy, look.new, look.sides, now),
    )
    if state.since:
        told.since.CopyFrom(stamp(state.since))
    return told
