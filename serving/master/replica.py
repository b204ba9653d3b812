"""From what is observed of a replica to the row that the plan looks at. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from serving.master.model import ActorRow, ActorState, CrashLoop, Facts, Replica
from serving.master.names import ReplicaName
from serving.master.phases import ReplicaState, next_replica_state

_S = ReplicaState
_ENDED: Final = frozenset({_S.FAILED, _S.STOPPED})


@dataclass(frozen=True, slots=True)
class ReplicaLimits:
    """When patience with a replica ends."""

    start_timeout_s: float = 120.0  # from the start of its process until it is ready
    stable_s: float = 10.0  # a process that was ready that long counts as started well
    max_early_ends: int = 3  # processes that may end earlier before the replica has failed


@dataclass(frozen=True, slots=True)
class _Seen:
    state: ReplicaState
    reason: str = ""


def observe(name: ReplicaName, previous: Replica | None, facts: Facts, limits: ReplicaLimits, now: float) -> Replica:
    """The replica's row after these facts. The same facts again change nothing but what time itself changes."""
    actor = facts.actor
    present = actor is not None and actor.state is not ActorState.DEAD
    before = previous or Replica(name=name, state=_S.PENDING, since=now, present=present)
    new_process = actor is not None and before.pid != 0 and actor.pid not in (0, before.pid)
    early_ends = _early_ends(previous, actor, limits, now)
    seen = _seen(before, facts, new_process, early_ends, limits, now)
    state = next_replica_state(previous.state if previous else None, seen.state)
    changed = previous is None or state != previous.state
    believed = seen.state == state and (changed or state not in _ENDED)  # the first reason of an end is the true one
    starting = state is _S.STARTING
    fresh_start = starting and (new_process or before.starting_since is None)
    return replace(
        before,
        state=state,
        since=now if changed else before.since,
        present=present,
        starting_since=(now if fresh_start else before.starting_since) if starting else None,
        node=actor.node if actor is not None and actor.node else before.node,
        address=facts.report.address if facts.report is not None and _is_current(facts) else before.address,
        pid=actor.pid if actor is not None and actor.pid else before.pid,
        restarts=actor.restarts if actor is not None else before.restarts,
        early_ends=early_ends,
        proven=before.proven or state is _S.READY,
        retired=before.retired or state is _S.DRAINING,
        retired_at=before.retired_at or (now if before.retired or state is _S.DRAINING else 0.0),
        process_gone=_process_gone(facts),
        unheard=actor is not None and actor.state is ActorState.ALIVE and not _is_current(facts),
        reason=seen.reason if believed else before.reason,
        **_update_facts(before, facts, new_process, limits, now),
    )


def _update_facts(
    before: Replica, facts: Facts, new_process: bool, limits: ReplicaLimits, now: float
) -> dict[str, Any]:
    """What the process says of its models. A new process begins with those that the replica was made for."""
    report = facts.report
    if new_process or _process_gone(facts):
        ended = {"updating_to": 0, "updating_since": 0.0, "failed_revision": 0, "failed_updates": 0}
        if not before.updating_to or before.retired:
            return ended
        why = f"its process ended while it loaded the models of revision {before.updating_to}"
        return ended | {"given_up": before.updating_to, "failed_reason": why}
    if report is None or not _is_current(facts):
        return {}
    since = (before.updating_since or now) if report.updating_to else 0.0
    if since and now - since > limits.start_timeout_s:
        why = f"the models of revision {report.updating_to} were not loaded within {limits.start_timeout_s:g} s"
        return {"given_up": report.updating_to, "failed_reason": why, "updating_to": report.updating_to}
    return {
        "updating_since": since,
        "serves": report.revision or before.serves,
        "updating_to": report.updating_to,
        "failed_revision": report.failed_revision,
        "failed_updates": report.failed_updates,
        "failed_reason": report.failed_reason or (before.failed_reason if before.given_up else ""),
    }


def forgettable(replica: Replica) -> bool:
    """True for a row that holds nothing worth showing: it ended as it should."""
    return replica.state is _S.STOPPED and not replica.present


def _is_current(facts: Facts) -> bool:
    """The report is of the process that Ray runs now, not of one before it."""
    return facts.report is not None and facts.actor is not None and facts.report.pid == facts.actor.pid


def _process_gone(facts: Facts) -> bool:
    actor, health = facts.actor, facts.health
    if actor is None or actor.state in (ActorState.DEAD, ActorState.RESTARTING):
        return True
    return health is not None and health.gone and health.pid == actor.pid


def _early_ends(previous: Replica | None, actor: ActorRow | None, limits: ReplicaLimits, now: float) -> int:
    """How many processes in a row ended before they were ready for long."""
    if previous is None or actor is None:
        return previous.early_ends if previous else 0
    stable = previous.state is _S.READY and now - previous.since >= limits.stable_s
    if stable or previous.retired:
        return 0
    return previous.early_ends + max(0, actor.restarts - previous.restarts)


def _seen(
    before: Replica, facts: Facts, new_process: bool, early_ends: int, limits: ReplicaLimits, now: float
) -> _Seen:
    actor = facts.actor
    if actor is None or actor.state is ActorState.DEAD:
        return _gone(before, actor)
    if before.retired and (new_process or actor.state is ActorState.RESTARTING):
        return _Seen(_S.STOPPED, "its process ended while it drained")
    if early_ends >= limits.max_early_ends:
        return _Seen(_S.FAILED, f"its process ended {early_ends} times before it was ready for {limits.stable_s:g} s")
    if actor.state is ActorState.PENDING:
        return _Seen(_S.PENDING, f"waits until its cluster has {format_resources(actor)}")
    if actor.state is ActorState.RESTARTING:
        return _timed(before, "started again by Ray after its process ended", limits, now)
    return _alive(before, facts, limits, now)


def _gone(before: Replica, actor: ActorRow | None) -> _Seen:
    if before.retired:
        return _Seen(_S.STOPPED)
    if actor is not None and actor.death:
        return _Seen(_S.FAILED, actor.death)
    return _Seen(_S.FAILED, "its actor is gone from Ray")


def _alive(before: Replica, facts: Facts, limits: ReplicaLimits, now: float) -> _Seen:
    report = facts.report
    if report is None or not _is_current(facts):
        return _timed(before, "its process starts", limits, now)
    if report.state == "failed":
        return _Seen(_S.FAILED, report.reason or "it failed without a reason: see its log")
    if report.state == "draining":
        return _Seen(_S.DRAINING, "finishes its running requests")
    if report.state == "drained":
        return _Seen(_S.STOPPED, "drained")
    if facts.health is not None and facts.health.pid == report.pid and facts.health.hung:
        return _Seen(_S.UNHEALTHY, "its process runs and does not answer health checks")
    if report.state == "unhealthy":
        return _Seen(_S.UNHEALTHY, report.reason)
    if report.state != "ready":
        what = f"{report.state}: {report.reason}" if report.reason else report.state
        return _timed(before, what, limits, now)
    known_ready = before.state is _S.READY and before.pid == report.pid
    if report.registered or known_ready:
        return _Seen(_S.READY)
    return _Seen(_S.STARTING, "ready, not in discovery yet")  # no time limit: it waits for etcd


def _timed(before: Replica, what: str, limits: ReplicaLimits, now: float) -> _Seen:
    waited = 0.0 if before.starting_since is None else now - before.starting_since
    if before.state is _S.STARTING and waited > limits.start_timeout_s:
        return _Seen(_S.FAILED, f"not ready {limits.start_timeout_s:g} s after its start, its last step: {what}")
    return _Seen(_S.STARTING, what)


def format_resources(actor: ActorRow) -> str:
    """`2 CPU, 1 GPU free`, for people."""
    parts = [f"{amount:g} {name}" for name, amount in sorted(actor.required.items()) if amount]
    return f"{', '.join(parts)} free" if parts else "room for a process"


def has_ended(replica: Replica) -> bool:
    return replica.state in _ENDED


def worth_keeping(rows: Mapping[ReplicaName, Replica], loops: Mapping[str, CrashLoop]) -> dict[ReplicaName, Replica]:
    """Without what ended as it should; of what failed, the last one of a deployment whose crash loop goes on."""
    kept = {name: row for name, row in rows.items() if row.present or row.state is not _S.FAILED}
    kept = {name: row for name, row in kept.items() if not forgettable(row)}
    for deployment in loops:
        failed = [row for row in rows.values() if row.name.deployment == deployment and row.name not in kept]
        failed = [row for row in failed if row.state is _S.FAILED]
        if failed:
            last = max(failed, key=lambda row: (row.since, row.name))
            kept[last.name] = last
    return kept
