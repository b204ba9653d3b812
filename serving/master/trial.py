"""One deployment while a canary is under way: so many new replicas and so many old ones, a step at a time. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from serving.master.model import Action, CrashLoop, CreateReplica, DrainReplica, Goal, KillReplica, Replica, Trial
from serving.master.names import ReplicaName
from serving.master.phases import ReplicaState
from serving.store.keys import AppKey

_S = ReplicaState


@dataclass(frozen=True, slots=True)
class TrialState:
    """What `rollout.steps` found. `replicas` are all of the deployment, `counted` those of them that may stay."""

    app: AppKey
    generation: int
    goal: Goal
    trial: Trial
    replicas: tuple[Replica, ...]
    counted: list[Replica]

    def side(self, *, new: bool) -> list[Replica]:
        """Those of one side, best first: ready ones before those that come, low indexes before high ones."""
        rows = [row for row in self.counted if self.goal.is_current(row) == new]
        return sorted(rows, key=lambda row: (row.state is not _S.READY, row.name.index))

    def name(self, revision: int, index: int) -> ReplicaName:
        return ReplicaName(self.app, self.generation, self.goal.deployment, revision, index)


def trial_steps(state: TrialState, loop: CrashLoop | None, now: float) -> Iterator[Action]:
    """What to do now. Nobody leaves while it is not known of some process what it does."""
    goal, trial = state.goal, state.trial
    new, old = state.side(new=True), state.side(new=False)
    given_up = [row for row in old if row.revision in trial.abandoned]
    good = [row for row in old if row not in given_up]
    if not any(row.unheard for row in state.counted) and not goal.held:
        yield from _leave(new, trial.new, goal, "the canary needs fewer replicas" if trial.new else "the canary failed")
        yield from _old_leave(state, good, given_up)
    if goal.held:
        return
    room = max(0, goal.replicas + goal.max_surge - len(new) - len(old))
    missing = min(trial.old - len(good), room) if trial.refill and now >= trial.refill_at else 0
    for index in free_indexes(state.replicas, trial.stable, missing):
        yield CreateReplica(state.name(trial.stable, index))
    room -= max(0, missing)
    if loop is not None and now < loop.retry_at:
        return
    wanted = min(trial.new - len(new), room)
    if loop is not None:  # one at a time is tried
        wanted = min(wanted, 1 - sum(1 for row in new if row.state is not _S.READY))
    for index in free_indexes(state.replicas, goal.revision, wanted):
        yield CreateReplica(state.name(goal.revision, index))


def _old_leave(state: TrialState, good: list[Replica], given_up: list[Replica]) -> Iterator[Action]:
    """Down to what is wanted of old ones; what was given up stands in for those that are not ready yet."""
    goal, trial = state.goal, state.trial
    why = f"revision {goal.revision} is tried"
    ready = sum(1 for row in state.counted if row.state is _S.READY)
    spare = max(0, ready - goal.replicas + goal.max_unavailable) if trial.new else ready
    stand_in = max(0, trial.old - sum(1 for row in good if row.state is _S.READY))
    leaving = list(_leave(given_up, stand_in, goal, why, ready_at_most=spare))
    yield from leaving
    spare -= sum(1 for action in leaving if isinstance(action, DrainReplica))
    yield from _leave(good, trial.old, goal, why, ready_at_most=spare)


def _leave(
    rows: list[Replica], wanted: int, goal: Goal, why: str, *, ready_at_most: int | None = None
) -> Iterator[Action]:
    """The last ones of `rows` beyond `wanted`; of the ready ones at most `ready_at_most`."""
    ready = 0
    for row in reversed(rows[max(0, wanted) :]):
        if row.state is not _S.READY:
            yield KillReplica(row.name, restart=False, why=why)
        elif ready_at_most is None or ready < ready_at_most:
            ready += 1
            yield DrainReplica(row.name, goal.drain_timeout_s, why)


def free_indexes(replicas: Iterable[Replica], revision: int, count: int) -> list[int]:
    """The lowest `count` indexes that no replica of this revision has."""
    taken = {row.name.index for row in replicas if row.name.revision == revision}
    free: list[int] = []
    index = 0
    while len(free) < count:
        if index not in taken:
            free.append(index)
        index += 1
    return free
