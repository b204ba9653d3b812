"""Backing off from replicas that fail again and again. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from serving.master.model import CrashLoop, Goal, Replica
from serving.master.phases import ReplicaState


@dataclass(frozen=True, slots=True)
class BackoffLimits:
    """The n-th failure in a row is followed by a wait of `first_s` × 2ⁿ⁻¹, at most `longest_s`."""

    first_s: float = 2.0
    longest_s: float = 60.0
    stable_s: float = 10.0  # a current replica that came after the failure and is ready for so long ends the loop

    def wait_s(self, failures: int) -> float:
        return min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 30))


def fold(
    loops: Mapping[str, CrashLoop],
    goals: Iterable[Goal],
    before: Mapping[str, Replica],
    after: Iterable[Replica],
    limits: BackoffLimits,
    now: float,
) -> dict[str, CrashLoop]:
    """The crash loops after replicas went from `before` (by id) to `after`. A new revision starts without a past."""
    rows = tuple(after)
    found: dict[str, CrashLoop] = {}
    for goal in goals:
        loop = loops.get(goal.deployment)
        if loop is not None and loop.revision != goal.revision:
            loop = None
        current = [row for row in rows if row.name.deployment == goal.deployment and goal.stays(row)]
        if (
            loop is not None
            and all(goal.is_current(row) for row in current)
            and _over(loop, goal, current, limits, now)
        ):
            loop = None
        gave_up = [row for row in rows if row.name.deployment == goal.deployment and row.given_up == goal.revision]
        for row in dict.fromkeys((*current, *gave_up)):
            reason = _new_failure(goal, before.get(row.id), row, limits, now)
            if reason is not None:
                failures = (loop.failures if loop else 0) + 1
                loop = CrashLoop(goal.revision, failures, now + limits.wait_s(failures), reason, now)
        if loop is not None:
            found[goal.deployment] = loop
    return found


def _new_failure(goal: Goal, before: Replica | None, after: Replica, limits: BackoffLimits, now: float) -> str | None:
    """Why the replica has failed, or has failed to load the models of the wanted revision, since it was seen before."""
    if _newly_failed(before, after, max(limits.stable_s, goal.min_ready_s), now):
        return after.reason
    given_up = before.given_up if before is not None else 0
    if after.given_up == goal.revision != given_up:
        return after.failed_reason
    counted = before.failed_updates if before is not None and before.pid == after.pid else 0
    failed = after.failed_revision == goal.revision and after.failed_updates > counted
    return after.failed_reason if failed else None


def _newly_failed(before: Replica | None, after: Replica, stable_s: float, now: float) -> bool:
    """One that had served well for a while did not fail to start: it is replaced at once."""
    if after.state is not ReplicaState.FAILED:
        return False
    if before is None:
        return True
    served = before.state is ReplicaState.READY and now - before.since >= stable_s
    return before.state is not ReplicaState.FAILED and not served


def _over(loop: CrashLoop, goal: Goal, current: Iterable[Replica], limits: BackoffLimits, now: float) -> bool:
    """One that became ready after the last failure has been so for a while, or all that are wanted have.

    Those that were ready before it say nothing of whether another one can start.
    """
    settled = [
        row
        for row in current
        if row.state is ReplicaState.READY and not row.retired and now - row.since >= limits.stable_s
    ]
    return len(settled) >= max(1, goal.replicas) or any(row.since > loop.failed_at for row in settled)
