"""One deployment from what runs to what is wanted, a step at a time. Pure.

New replicas start beside the old ones (`max_surge` more than wanted at most); old ones go as new ones are ready. A
revision that fails therefore costs no old replica, or as many as `max_unavailable` allows. Where only models differ,
the old replicas stay and load them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from serving.master.model import (
    Action,
    CrashLoop,
    CreateReplica,
    DrainReplica,
    Goal,
    KillReplica,
    Replica,
    UpdateReplica,
)
from serving.master.names import ReplicaName
from serving.master.phases import ReplicaState
from serving.master.trial import TrialState, free_indexes, trial_steps
from serving.store.keys import AppKey

_S = ReplicaState
_COMING: Final = frozenset({_S.PENDING, _S.STARTING, _S.UNHEALTHY})


@dataclass(frozen=True, slots=True)
class _Groups:
    """The replicas that count, none of them retired or ended."""

    current_ready: list[Replica]  # for long enough to take an old one's place
    current_settling: list[Replica]  # ready, but not yet for that long
    current_coming: list[Replica]
    old_ready: list[Replica]
    old_coming: list[Replica]

    @property
    def current(self) -> int:
        return len(self.current_ready) + len(self.current_settling) + len(self.current_coming)

    @property
    def old(self) -> int:
        return len(self.old_ready) + len(self.old_coming)


def steps(
    app: AppKey, generation: int, goal: Goal, replicas: tuple[Replica, ...], loop: CrashLoop | None, now: float
) -> Iterator[Action]:
    """What to do for one deployment. `replicas` are this deployment's, of this generation."""
    counted = [replica for replica in replicas if replica.state in _COMING | {_S.READY} and not replica.retired]
    groups = _group(goal, counted, now)
    if goal.trial is not None:
        yield from trial_steps(TrialState(app, generation, goal, goal.trial, replicas, counted), loop, now)
        return
    leaving = 0
    known = not any(row.unheard for row in counted)  # else it may be one that serves: nobody leaves until that is known
    if not goal.stands:
        yield from _update(goal, counted, loop, now)
    if known and not goal.stands:
        yield from _retire_old(goal, groups)
        leaving = sum(1 for row in groups.old_coming if _hopeless(row))
    if known and not goal.held:
        yield from _scale_in(goal, groups)
    revision = goal.revision
    if goal.stands and groups.old:  # nothing of a new revision comes while it is paused
        revision = max(row.name.revision for row in (*groups.old_ready, *groups.old_coming))
    for index in _create(goal, groups, groups.old - leaving, replicas, revision, loop, now):
        yield CreateReplica(ReplicaName(app, generation, goal.deployment, revision, index))


def _group(goal: Goal, counted: list[Replica], now: float) -> _Groups:
    rows = sorted(counted, key=lambda row: (row.revision, row.name))
    current = [row for row in rows if goal.stays(row)]
    old = [row for row in rows if not goal.stays(row)]
    ready = [row for row in current if row.state is _S.READY]
    settled = [row for row in ready if not old or now >= settles_at(goal, row)]
    return _Groups(
        current_ready=settled,
        current_settling=[row for row in ready if row not in settled],
        current_coming=[row for row in current if row.state is not _S.READY],
        old_ready=[row for row in old if row.state is _S.READY],
        old_coming=[row for row in old if row.state is not _S.READY],
    )


def settles_at(goal: Goal, row: Replica) -> float:
    """When a ready replica of the wanted revision may take an old one's place."""
    return row.since + goal.min_ready_s


def _update(goal: Goal, counted: list[Replica], loop: CrashLoop | None, now: float) -> Iterator[Action]:
    """Other models for running replicas: first for one, and when that has gone well for a quarter of them at a time."""
    if loop is not None and now < loop.retry_at:
        return
    wanting = [row for row in counted if not row.unheard]
    wanting = [row for row in wanting if row.revision in goal.updatable or not goal.settled(row)]
    running = [row for row in wanting if row.updating_to == goal.revision]
    proven = any(row.revision in {goal.revision} | goal.same and row.state is _S.READY for row in counted)
    at_a_time = max(1, goal.replicas // 4) if proven else 1
    waiting = [row for row in wanting if row.updating_to != goal.revision and row.state in (_S.STARTING, _S.READY)]
    # What starts serves nobody yet: it need not wait for its turn, and should not begin with what is out of date.
    starting = [row for row in waiting if row.state is _S.STARTING]
    ready = sorted((row for row in waiting if row.state is _S.READY), key=lambda row: row.name)
    for row in (*starting, *ready[: max(0, at_a_time - len(running))]):
        yield UpdateReplica(row.name, goal.revision)


def _retire_old(goal: Goal, groups: _Groups) -> Iterator[Action]:
    """Old replicas beyond what the ready new ones leave to be served. Those that serve nothing go first."""
    why = f"replaced by revision {goal.revision}"
    yield from (KillReplica(row.name, restart=False, why=why) for row in groups.old_coming if _hopeless(row))
    waiting = [row for row in groups.old_coming if not _hopeless(row)]
    keep = max(0, goal.replicas - goal.max_unavailable - len(groups.current_ready))
    surplus = len(groups.old_ready) + len(waiting) - keep
    for row in waiting[: max(0, surplus)]:
        yield KillReplica(row.name, restart=False, why=why)
    surplus -= len(waiting)
    for row in groups.old_ready[: max(0, surplus)]:
        yield DrainReplica(row.name, goal.drain_timeout_s, why)


def _hopeless(row: Replica) -> bool:
    """It never was ready, and with a newer revision wanted nobody needs it to become so."""
    return not row.proven and row.restarts == 0


def _scale_in(goal: Goal, groups: _Groups) -> Iterator[Action]:
    """Current replicas beyond the wanted number: those that are not ready first, then those that run no long items of
    brokers, of these the highest index.

    While a rollout is paused nobody else takes the old ones away: then they go first.
    """
    why = f"{goal.replicas} replicas are wanted"
    surplus = groups.current - goal.replicas
    if goal.stands:
        surplus += groups.old
        for row in groups.old_coming[: max(0, surplus)]:
            yield KillReplica(row.name, restart=False, why=why)
        surplus -= len(groups.old_coming)
        for row in groups.old_ready[: max(0, surplus)]:
            yield DrainReplica(row.name, goal.drain_timeout_s, why)
        surplus -= len(groups.old_ready)
    leaving = sorted(groups.current_coming, key=lambda row: row.name.index, reverse=True)[: max(0, surplus)]
    yield from (KillReplica(row.name, restart=False, why=why) for row in leaving)
    surplus -= len(leaving)
    ready = [*groups.current_ready, *groups.current_settling]
    ready.sort(key=lambda row: (row.revision, row.name.revision, row.id in goal.busy, -row.name.index))
    for row in ready[: max(0, surplus)]:
        yield DrainReplica(row.name, goal.drain_timeout_s, why)


def _create(
    goal: Goal,
    groups: _Groups,
    old: int,
    replicas: tuple[Replica, ...],
    revision: int,
    loop: CrashLoop | None,
    now: float,
) -> list[int]:
    """Indexes of the replicas of `revision` to start now, beside `old` older ones."""
    if loop is not None and now < loop.retry_at:
        return []
    missing = goal.replicas - groups.current
    if old > 0 or loop is not None:
        at_a_time = 1 if loop is not None else goal.max_surge + goal.max_unavailable
        missing = min(missing, at_a_time - len(groups.current_coming) - len(groups.current_settling))
    surge = 0 if goal.stands else goal.max_surge
    missing = min(missing, goal.replicas + surge - groups.current - old)
    return free_indexes(replicas, revision, missing)
