"""From a snapshot and the time to what must be done. Pure and idempotent: killed anywhere and run again, it goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from serving.master import rollout
from serving.master.model import Action, DrainReplica, Finish, KillReplica, Plan, Replica, RevokeLease, Situation
from serving.master.phases import ReplicaState
from serving.store.keys import AppKey

_S = ReplicaState
DRAIN_SLACK_S = 5.0  # a replica gets this much longer than it asked for before it is ended anyway
DEFAULT_DRAIN_S = 30.0
KILL_PATIENCE_S = 20.0


def plan(app: AppKey, situation: Situation, now: float) -> Plan:
    """Everything that must be done now. Order: discovery first, then ends, drains, starts."""
    own = tuple(row for row in situation.replicas if row.name.generation == situation.generation)
    # Replicas of a generation before ours are left over from a master that could not finish; of one after, not ours.
    stale = [row for row in situation.replicas if row.name.generation < situation.generation]
    actions = [*_revocations(situation), *_ends(situation, now)]
    if situation.stopping:
        actions += _drains(situation, _first_to_leave(situation, [*own, *stale]), "the application leaves this cluster")
        if not any(row.present for row in (*own, *stale)):
            actions.append(Finish())
    else:
        actions += _drains(situation, stale, f"generation {situation.generation} replaced it")
        actions += _drains(situation, [row for row in own if _goalless(situation, row)], "its deployment was removed")
        for goal in situation.goals:
            mine = tuple(row for row in own if row.name.deployment == goal.deployment)
            loop = situation.crash_loops.get(goal.deployment)
            actions += rollout.steps(app, situation.generation, goal, mine, loop, now)
    return Plan(tuple(dict.fromkeys(actions)), _next_look(situation, now))


def _revocations(situation: Situation) -> Iterator[Action]:
    """Leases of processes that are dead or do not answer.

    The endpoints were read before the actors, so that every living process is known. A lease belongs to one process:
    revoking it cannot hurt the one that Ray started in its place.
    """
    rows = {row.id: row for row in situation.replicas if row.name.generation == situation.generation}
    for endpoint in situation.endpoints:
        if endpoint.generation != situation.generation or not endpoint.lease or endpoint.lease in situation.revoked:
            continue
        why = _unusable(rows.get(endpoint.replica_id), endpoint.pid)
        if why:
            yield RevokeLease(endpoint.replica_id, endpoint.lease, why)


def _unusable(row: Replica | None, pid: int) -> str:
    if row is None or not row.present:
        return "its actor is gone"
    if row.process_gone:
        return "its process is gone" if pid == row.pid else "it is of a process before the last one"
    if row.pid and pid != row.pid:
        return "Ray runs another process in its place"
    return "it does not answer" if row.state is _S.UNHEALTHY else ""


def _ends(situation: Situation, now: float) -> Iterator[Action]:
    """What must not run any longer, or must be run again."""
    limits = {goal.deployment: goal.drain_timeout_s for goal in situation.goals}
    for row in situation.replicas:
        if not row.present or row.name.generation > situation.generation or _kill_is_under_way(row, now):
            continue
        if row.state is _S.FAILED:
            yield KillReplica(row.name, restart=False, why=row.reason)
        elif row.state is _S.STOPPED:
            yield KillReplica(row.name, restart=False, why="drained")
        elif row.state is _S.DRAINING:
            if now >= row.since + limits.get(row.name.deployment, DEFAULT_DRAIN_S) + DRAIN_SLACK_S:
                yield KillReplica(row.name, restart=False, why="not drained in time")
        elif row.retired and now >= _gone_by(row, limits):
            yield KillReplica(row.name, restart=False, why="it was told to leave and does not")
        elif row.state is _S.UNHEALTHY:
            if row.retired or situation.stopping:
                yield KillReplica(row.name, restart=False, why=row.reason or "it does not answer")
            else:
                yield KillReplica(row.name, restart=True, why=row.reason or "it does not answer")


def _gone_by(row: Replica, limits: Mapping[str, float]) -> float:
    """When a replica that was told to leave must be gone. It may be loading models and hear nothing meanwhile."""
    return row.retired_at + limits.get(row.name.deployment, DEFAULT_DRAIN_S) + DRAIN_SLACK_S + KILL_PATIENCE_S


def _kill_is_under_way(row: Replica, now: float) -> bool:
    """Ray needs seconds to end a process that hangs. A second kill could hit the process that it starts next."""
    return row.pid == row.killed_pid and now < row.killed_at + KILL_PATIENCE_S


def _first_to_leave(situation: Situation, rows: list[Replica]) -> list[Replica]:
    """Proxies as long as there are any: what they have taken on still needs the replicas."""
    fronts = {goal.deployment for goal in situation.goals if goal.fronts}
    leaving = [row for row in rows if row.name.deployment in fronts and row.present]
    return leaving or rows


def _drains(situation: Situation, rows: list[Replica], why: str) -> Iterator[Action]:
    """Ready ones are drained, those that serve nothing are ended at once."""
    limits = {goal.deployment: goal.drain_timeout_s for goal in situation.goals}
    for row in rows:
        if not row.present or row.state in (_S.DRAINING, _S.STOPPED, _S.FAILED):
            continue  # these have their ways already
        if row.unheard or (row.state is _S.READY and row.retired):
            continue  # it may be one that serves, or drains already
        if row.state is _S.READY:
            yield DrainReplica(row.name, limits.get(row.name.deployment, DEFAULT_DRAIN_S), why)
        else:
            yield KillReplica(row.name, restart=False, why=why)


def _goalless(situation: Situation, row: Replica) -> bool:
    return all(goal.deployment != row.name.deployment for goal in situation.goals)


def _next_look(situation: Situation, now: float) -> float:
    """When time alone will change the plan. Ready replicas need no looking at: news of them wake the master."""
    times = [loop.retry_at for loop in situation.crash_loops.values() if loop.retry_at > now]
    limits = {goal.deployment: goal.drain_timeout_s for goal in situation.goals}
    goals = {goal.deployment: goal for goal in situation.goals}
    for row in situation.replicas:
        if row.state is _S.READY and row.name.deployment in goals:
            times.append(rollout.settles_at(goals[row.name.deployment], row))
        if row.state is _S.DRAINING:
            times.append(row.since + limits.get(row.name.deployment, DEFAULT_DRAIN_S) + DRAIN_SLACK_S)
        elif row.retired and row.present:
            times.append(_gone_by(row, limits))
    return min((time for time in times if time > now), default=0.0)
