"""A canary from step to step: what share of the requests the new revision gets, and when it has failed. Pure.

The state is what stands in etcd (`CanaryState`): nothing here is remembered anywhere else, so that a master that dies
goes on where it was. Times are unix seconds, weights hundredths of a percent.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from serving.master.autoscaling import Sample, percentile
from serving.master.model import CrashLoop, Goal, Replica, Trial
from serving.master.phases import ReplicaState
from serving.master.rollout import settles_at

ALL: Final = 10_000
STEPPING: Final = "stepping"
FINISHING: Final = "finishing"  # the weight follows the number of replicas
FAILED: Final = "failed"
FAILURES: Final = 3  # replicas in a row that do not start, or processes that end by themselves
LITTLE: Final = 2500  # with at most this weight what is given up can be cut off without overloading the others
ROUNDING: Final = 0.001  # a third of the weight is 3333, and no reason for one more replica
SIGMAS: Final = 3.0
BEYOND_P99: Final = 0.01
FEWEST_TIMES: Final = 100  # of requests, before anything is said of p99

_S = ReplicaState
_COUNTED: Final = frozenset({_S.PENDING, _S.STARTING, _S.UNHEALTHY, _S.READY})


@dataclass(frozen=True, slots=True)
class Step:
    weight: int
    for_s: float | None  # None: until it is promoted


@dataclass(frozen=True, slots=True)
class CanaryPolicy:
    """How a canary goes; see `Canary` of records.proto. 0 of `max_p99_s` and `max_p99_ratio` is any."""

    steps: tuple[Step, ...]
    max_error_rate: float = 0.05
    max_p99_s: float = 0.0
    max_p99_ratio: float = 0.0
    min_requests: int = 20


@dataclass(frozen=True, slots=True)
class Evidence:
    """What replicas of one side have done since the step began.

    `requests` and streams were answered, `failed` of them by the server's fault. `within`: the `timed` ones by upper
    bounds in seconds. `ends`: processes that ended by themselves.
    """

    requests: int = 0
    failed: int = 0
    timed: int = 0
    within: tuple[tuple[float, int], ...] = ()
    ends: int = 0

    @property
    def p99_s(self) -> float:
        return percentile([Sample(0.0, 0.0, within=self.within, requests=self.timed)], 0.99)

    def slower_than(self, seconds: float) -> int:
        """How many took longer, interpolated in their bucket as percentiles are."""
        low, below = 0.0, 0
        for bound, count in self.within:
            if bound >= seconds:
                return self.timed - below - int((count - below) * (seconds - low) / (bound - low))
            low, below = bound, count
        return self.timed - below


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a canary is.

    `revisions` are all that count as new, `stable` is what old replicas that are lost are replaced by. `since` 0.0: the
    step's weight is not reached yet. `abandoned` were tried before and not to the end; `cut_off`: they get no requests.
    """

    revision: int
    revisions: frozenset[int]
    stable: int
    phase: str = STEPPING
    step: int = 0
    weight: int = 0
    since: float = 0.0
    reason: str = ""
    abandoned: frozenset[int] = frozenset()
    cut_off: bool = False


@dataclass(frozen=True, slots=True)
class Sides:
    """The replicas of a deployment, counted: those of the wanted revision, and older ones."""

    new_ready: int
    new_settled: int  # ready for long enough to take on requests
    old_ready: int
    old: int  # any that may still serve
    stable: int = 0  # the revision of most of the old ones; 0: there are none

    @classmethod
    def of(cls, goal: Goal, replicas: Iterable[Replica], now: float) -> Sides:
        rows = [row for row in replicas if row.state in _COUNTED and not row.retired]
        new = [row for row in rows if goal.is_current(row) and row.state is _S.READY]
        old = [row for row in rows if not goal.is_current(row)]
        revisions = Counter(row.revision for row in old if row.proven or row.state is _S.READY)
        return cls(
            new_ready=len(new),
            new_settled=sum(1 for row in new if now >= settles_at(goal, row)),
            old_ready=sum(1 for row in old if row.state is _S.READY),
            old=revisions.total(),
            stable=min(revisions, key=lambda number: (-revisions[number], number), default=0),
        )


@dataclass(frozen=True, slots=True)
class Look:
    """What `advance` looks at besides the state and the goal. `retry`: other rules than those that it failed by."""

    sides: Sides
    new: Evidence = Evidence()
    old: Evidence = Evidence()
    loop: CrashLoop | None = None
    promoted: int = 0  # steps that need not be waited for
    retry: bool = False
    refill_at: float = 0.0  # before that no old replica is started again


def advance(known: Progress | None, goal: Goal, policy: CanaryPolicy | None, look: Look, now: float) -> Progress | None:
    """The state that should be there at `now`; None where requests go by load, as nothing is tried.

    Not to be asked while it is unknown what some replicas are (`goal.unknown`).
    """
    mine = known if known is not None and _is_of(known, goal) else None
    tried = mine is not None and mine.phase != FINISHING
    if not tried and (goal.replicas == 0 or look.sides.old == 0):
        return None
    state: Progress | None
    if mine is not None and not (mine.phase == FAILED and look.retry):
        state = replace(mine, revision=goal.revision, revisions=_new(goal))
    else:
        state = _begin(known, goal, policy, look.sides)
    if state is None or state.phase == FAILED or goal.replicas == 0:
        return state
    if state.phase == STEPPING and policy is not None:
        return _step(state, goal, policy, look, now)
    if goal.paused:
        return state
    return replace(state, phase=FINISHING, weight=max(state.weight, _capacity(goal, look.sides)))


def trial(state: Progress | None, goal: Goal, policy: CanaryPolicy | None, refill_at: float = 0.0) -> Trial | None:
    """How many replicas of each side the stored state asks for; None where nothing is tried.

    Each side has at least what its stored share of the requests needs: old ones leave after the weight has moved.
    """
    if state is None:
        return None
    wanted, share = goal.replicas, _share_of(goal.replicas, state.weight)
    needed = _share_of(wanted, ALL - state.weight)
    if state.phase == FAILED:
        return Trial(0, wanted, state.stable, refill_at=refill_at, abandoned=state.abandoned)
    if state.phase == FINISHING or policy is None:
        new = share if goal.paused else wanted
        return Trial(new, needed, state.stable, refill=False, abandoned=state.abandoned)
    step = _share_of(wanted, policy.steps[_step_of(state, policy)].weight)
    new = min(wanted, max(1, share, 0 if goal.paused else step))
    old = min(wanted, max(needed, wanted + goal.max_surge - new))
    return Trial(new, old, state.stable, refill_at=refill_at, abandoned=state.abandoned)


def _capacity(goal: Goal, sides: Sides) -> int:
    """The share of the requests that the new replicas are there for."""
    return min(ALL, ALL * sides.new_settled // goal.replicas)


def _is_of(known: Progress, goal: Goal) -> bool:
    """It is a canary of what is wanted now, though perhaps of an earlier revision with the same content."""
    return known.revision == goal.revision or known.revision in goal.same


def _new(goal: Goal) -> frozenset[int]:
    return goal.same | {goal.revision}


def _begin(known: Progress | None, goal: Goal, policy: CanaryPolicy | None, sides: Sides) -> Progress | None:
    """At the beginning of a rollout. One that goes back to what was stable takes the requests along at once.

    What was tried before it, and not to its end, is given up: nobody has seen that it does well.
    """
    begun = Progress(goal.revision, _new(goal), sides.stable)
    if known is None:
        mostly = sides.new_ready > 0 and sides.new_ready >= sides.old_ready
        return None if mostly or policy is None else begun
    if known.stable in _new(goal):
        return replace(begun, phase=FINISHING, weight=ALL - known.weight)
    if known.phase != FINISHING:
        given_up = known.abandoned | known.revisions - _new(goal)
        cut_off = known.cut_off or known.weight <= LITTLE
        begun = replace(begun, stable=known.stable or sides.stable, abandoned=given_up, cut_off=cut_off)
    return begun if policy is not None else None


def _step(state: Progress, goal: Goal, policy: CanaryPolicy, look: Look, now: float) -> Progress:
    wrong = _wrong(policy, look) if state.weight or look.loop is not None else ""
    if wrong:
        return replace(state, phase=FAILED, weight=0, since=now, reason=wrong)
    if goal.paused:
        return state
    step = max(_step_of(state, policy), min(look.promoted, len(policy.steps)))
    if step == len(policy.steps):
        return replace(state, phase=FINISHING, since=now)
    wanted = policy.steps[step].weight
    if step > state.step or (state.since and state.weight != wanted):  # other steps than before: weights first
        state = replace(state, step=step, since=0.0)
    if not state.since:
        enough = look.sides.new_settled >= max(1, _share_of(goal.replicas, wanted))
        weight = wanted if enough else min(wanted, max(state.weight, _capacity(goal, look.sides)))
        return replace(state, weight=weight, since=now if enough else 0.0)
    if not _is_over(policy.steps[step], state, policy, look.new, now):
        return state
    if step + 1 == len(policy.steps):
        return replace(state, phase=FINISHING, since=now)
    return replace(state, step=step + 1, since=0.0)


def _wrong(policy: CanaryPolicy, look: Look) -> str:
    if look.loop is not None and look.loop.failures >= FAILURES:
        return f"{look.loop.failures} replicas in a row have failed: {look.loop.reason}"
    if look.new.ends >= FAILURES:
        return f"processes of its replicas have ended {look.new.ends} times by themselves"
    return verdict(policy, look.new, look.old)


def _is_over(step: Step, state: Progress, policy: CanaryPolicy, new: Evidence, now: float) -> bool:
    return step.for_s is not None and now >= state.since + step.for_s and new.requests >= policy.min_requests


def _step_of(state: Progress, policy: CanaryPolicy) -> int:
    """A later revision with the same content may have fewer steps."""
    return min(state.step, len(policy.steps) - 1)


def _share_of(replicas: int, weight: int) -> int:
    return math.ceil(replicas * weight / ALL - ROUNDING)


def verdict(policy: CanaryPolicy, new: Evidence, old: Evidence) -> str:
    """What is wrong with the new revision, in words; "" when nothing is, or too little is known to be sure.

    Chance must not fail a good one, however often it is looked at: a limit counts as broken when the share of requests
    beyond it is, by the lower bound of its confidence interval.
    """
    least = max(policy.min_requests, 1)
    if new.requests >= least and at_least(new.failed, new.requests) > policy.max_error_rate:
        rate, allowed = new.failed / new.requests, f"at most {policy.max_error_rate:.3g} may"
        return f"{new.failed} of {new.requests} requests failed ({rate:.3g}; {allowed})"
    if new.timed < max(least, FEWEST_TIMES):
        return ""
    if policy.max_p99_s and at_least(new.slower_than(policy.max_p99_s), new.timed) > BEYOND_P99:
        return f"p99 is {_ms(new.p99_s)}, at most {_ms(policy.max_p99_s)} is allowed"
    if not policy.max_p99_ratio or old.timed < FEWEST_TIMES:
        return ""
    limit_s = policy.max_p99_ratio * old.p99_s
    if at_least(new.slower_than(limit_s), new.timed) > BEYOND_P99:
        allowed = f"at most {policy.max_p99_ratio:g} times that is allowed"
        return f"p99 is {_ms(new.p99_s)}, that of the old replicas {_ms(old.p99_s)}; {allowed}"
    return ""


def at_least(found: int, of: int) -> float:
    """The lower bound of the share that `found` of `of` speak for: Wilson, "Probable inference" (1927), 3 sigma."""
    share, z2 = found / of, SIGMAS**2
    middle = share + z2 / (2 * of)
    half = SIGMAS * math.sqrt(share * (1 - share) / of + z2 / (4 * of**2))
    return max(0.0, (middle - half) / (1 + z2 / of)) if found else 0.0


def waits_for(state: Progress, goal: Goal, policy: CanaryPolicy | None, new: Evidence, sides: Sides, now: float) -> str:
    """In words, for the status: why the canary is not further."""
    if state.phase == FAILED:
        return state.reason
    if goal.paused:
        return "the rollout is paused"
    if state.phase == FINISHING or policy is None:
        return f"{sides.old} old replicas are still to be replaced"
    step = policy.steps[_step_of(state, policy)]
    if not state.since:
        return f"{sides.new_settled} of {max(1, _share_of(goal.replicas, step.weight))} new replicas are ready for it"
    if step.for_s is None:
        return "waits until it is promoted (`mesh rollout promote`)"
    left = state.since + step.for_s - now
    if new.requests < policy.min_requests:
        needs = f"{new.requests} of {policy.min_requests} requests that it is judged by have come"
        return f"{needs}, {left:.0f} s are left" if left > 0 else needs
    return f"{max(left, 0):.0f} s are left"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"
