"""The application's status, derived from the replicas' rows. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from serving._proto import records_pb2 as pb
from serving.master.model import CrashLoop, Goal, Replica, Situation
from serving.master.phases import AppPhase, ReplicaState, next_app_phase
from serving.stamps import stamp

_S = ReplicaState
MAX_REASON: Final = 2000  # letters of one reason
_COMING: Final = (_S.PENDING, _S.STARTING, _S.UNHEALTHY)


@dataclass(frozen=True, slots=True)
class _Count:
    """One deployment, counted."""

    goal: Goal
    rows: tuple[Replica, ...]
    loop: CrashLoop | None
    current_ready: int
    old_ready: int
    old_left: int  # replicas that are not current, or of which that is not known yet, and that have not ended

    @property
    def ready(self) -> int:
        return self.current_ready + self.old_ready

    @property
    def complete(self) -> bool:
        """What autoscaling adds to the least number may still be on its way."""
        enough = self.goal.replicas if self.goal.enough is None else min(self.goal.enough, self.goal.replicas)
        scaling = self.goal.enough is not None and self.current_ready > 0 and self.loop is None
        return self.current_ready >= (enough if scaling else self.goal.replicas) and self.old_left == 0


def derive(
    order: pb.Placement, situation: Situation, previous: pb.ApplicationStatus | None, now: float, *, store_away_s: float
) -> pb.ApplicationStatus:
    """The status at `now`. `previous` gives the times at which conditions became what they are."""
    counts = [_count(goal, situation) for goal in situation.goals]
    known = previous if previous is not None and previous.uid == order.stored.uid else None
    phase = next_app_phase(_phase_before(known), _phase(counts, situation))
    status = pb.ApplicationStatus(
        namespace=order.stored.spec.namespace,
        name=order.stored.spec.name,
        uid=order.stored.uid,
        cluster=order.cluster,
        generation=order.generation,
        revision=order.stored.revision,
        serving_revision=_serving_revision(counts, order.stored.revision),
        phase=pb.Phase.Name(int(phase)),
        message=_message(phase, counts),
        deployments=[_deployment(count) for count in counts],
        updated_at=stamp(now),
    )
    status.complete_revision = known.complete_revision if known is not None else 0
    if phase is AppPhase.READY:
        status.complete_revision = order.stored.revision
    status.conditions.extend(_conditions(order, counts, known, now, store_away_s))
    return status


def same_but_for_time(one: pb.ApplicationStatus, other: pb.ApplicationStatus) -> bool:
    left, right = pb.ApplicationStatus(), pb.ApplicationStatus()
    left.CopyFrom(one)
    right.CopyFrom(other)
    left.ClearField("updated_at")
    right.ClearField("updated_at")
    return left == right


def _count(goal: Goal, situation: Situation) -> _Count:
    rows = tuple(
        sorted(
            (row for row in situation.replicas if row.name.deployment == goal.deployment), key=lambda row: str(row.name)
        )
    )
    own = [row for row in rows if row.name.generation == situation.generation]
    ready = [row for row in own if row.state is _S.READY and not row.retired]
    current = sum(1 for row in ready if goal.is_current(row))
    doubtful = [row for row in own if not goal.is_current(row) or row.revision in goal.unknown or not goal.settled(row)]
    old_left = sum(1 for row in doubtful if row.state in (*_COMING, _S.READY))
    loop = situation.crash_loops.get(goal.deployment)
    return _Count(goal, rows, loop, current, len(ready) - current, old_left)


def _phase_before(previous: pb.ApplicationStatus | None) -> AppPhase | None:
    # A status of DELETING may be an older generation's farewell; this master's own way never leads back from it.
    if previous is None or previous.phase in (pb.PHASE_UNSPECIFIED, pb.PENDING, pb.DELETING):
        return None
    return AppPhase(int(previous.phase))


def _phase(counts: list[_Count], situation: Situation) -> AppPhase:
    """The first row that holds:

    | what is so                                                      | phase    |
    | --------------------------------------------------------------- | -------- |
    | told to stop                                                    | DELETING |
    | every deployment has its replicas, all of the wanted revision   | READY    |
    | a deployment serves nothing, and starting it fails              | FAILED   |
    | a deployment serves nothing                                     | STARTING |
    | a deployment's new replicas fail, or fewer serve than wanted,   | DEGRADED |
    | or its canary has failed                                        |          |
    | fewer serve than wanted, and no older revision does             | STARTING |
    | otherwise: an older revision is being replaced                  | UPDATING |
    """
    if situation.stopping:
        return AppPhase.DELETING
    if counts and all(count.complete for count in counts):
        return AppPhase.READY
    if any(count.ready == 0 and count.goal.replicas and count.loop for count in counts):
        return AppPhase.FAILED
    if any(count.ready == 0 and count.goal.replicas for count in counts):
        return AppPhase.STARTING
    if any(count.loop is not None or count.goal.halted or _short(count) for count in counts):
        return AppPhase.DEGRADED
    if any(count.ready < count.goal.replicas for count in counts) and not any(map(_older_serves, counts)):
        return AppPhase.STARTING
    return AppPhase.UPDATING


def _older_serves(count: _Count) -> bool:
    """Also replicas that did not change since an older revision: the application served before this one."""
    revision = count.goal.revision
    return any(row.state is _S.READY and not row.retired and row.revision < revision for row in count.rows)


def _short(count: _Count) -> bool:
    """Serves with fewer than wanted, though it is not because of a first start or a scale-out that goes well."""
    lost = [row for row in count.rows if row.state in _COMING and (row.proven or row.restarts > 0)]
    return count.ready < count.goal.replicas and bool(lost)


def _serving_revision(counts: list[_Count], wanted: int) -> int:
    """The newest revision of which every deployment has a ready replica (or one as good); 0 for none."""
    if not counts:
        return 0
    candidates = {wanted}
    for count in counts:
        candidates |= {row.revision for row in count.rows}
    for revision in sorted((number for number in candidates if number <= wanted), reverse=True):
        if all(_serves(count, revision, wanted) for count in counts):
            return revision
    return 0


def _serves(count: _Count, revision: int, wanted: int) -> bool:
    """A deployment that did not change between two revisions serves both with the same replicas.

    One that has no replicas because nobody asks it serves the wanted revision.
    """
    if count.goal.replicas == 0 and revision == wanted:
        return True
    as_good = revision == wanted or revision in count.goal.same
    return any(
        row.revision == revision or (as_good and count.goal.is_current(row))
        for row in count.rows
        if row.state is _S.READY and not row.retired
    )


# ---- in words -------------------------------------------------------------------------------------------------------


def _message(phase: AppPhase, counts: list[_Count]) -> str:
    if phase is AppPhase.READY:
        total = sum(count.current_ready for count in counts)
        return f"{total} of {sum(count.goal.replicas for count in counts)} replicas are ready"
    if phase is AppPhase.DELETING:
        left = sum(1 for count in counts for row in count.rows if row.present)
        return f"{left} replicas are still to end"
    told = [f"{count.goal.deployment}: {reason}" for count in counts if (reason := _reason(count))]
    return "; ".join(told)[:MAX_REASON]


def _reason(count: _Count) -> str:
    """Why a deployment is not as wanted; empty when it is."""
    if count.current_ready >= count.goal.replicas and count.complete and count.loop is None:
        return ""
    wanted = count.goal.replicas
    parts = [f"{count.current_ready} of {wanted} replicas of revision {count.goal.revision} are ready"]
    if count.old_ready:
        parts.append(f"{count.old_ready} of older revisions serve")
    if count.goal.paused and count.old_left:
        parts.append("the rollout is paused")
    if count.goal.halted:
        parts.append(count.goal.halted)
    elif count.loop is not None:
        parts.append(f"{_times(count.loop.failures)} failed: {count.loop.reason}")
    else:
        parts += sorted({f"{row.id}: {row.reason}" for row in count.rows if row.state in _COMING and row.reason})
    return ", ".join(parts)[:MAX_REASON]


def _times(failures: int) -> str:
    return "a replica has" if failures == 1 else f"{failures} replicas in a row have"


def _conditions(
    order: pb.Placement, counts: list[_Count], previous: pb.ApplicationStatus | None, now: float, store_away_s: float
) -> Iterator[pb.Condition]:
    before = {condition.type: condition for condition in previous.conditions} if previous is not None else {}
    for kind, status, reason, message in (
        ("Placed", True, "Placed", f"on {order.cluster} as generation {order.generation}"),
        _replicas_ready(counts),
        _revision_serving(order, counts),
        _store_reachable(store_away_s),
    ):
        condition = pb.Condition(type=kind, status=status, reason=reason, message=message[:MAX_REASON])
        old = before.get(kind)
        if old is not None and old.status == status:
            condition.since.CopyFrom(old.since)
        else:
            condition.since.CopyFrom(stamp(now))
        yield condition


def _replicas_ready(counts: list[_Count]) -> tuple[str, bool, str, str]:
    ready, wanted = sum(count.ready for count in counts), sum(count.goal.replicas for count in counts)
    enough = all(count.ready >= count.goal.replicas for count in counts)
    reason = "AllReady" if enough else "CrashLoop" if any(count.loop for count in counts) else "NotEnough"
    return "ReplicasReady", enough, reason, f"{ready} of {wanted} replicas are ready"


def _revision_serving(order: pb.Placement, counts: list[_Count]) -> tuple[str, bool, str, str]:
    wanted = order.stored.revision
    if counts and all(count.current_ready > 0 or not count.goal.replicas for count in counts):
        return "RevisionServing", True, "Serving", f"revision {wanted} serves"
    halted = "; ".join(f"{count.goal.deployment}: {count.goal.halted}" for count in counts if count.goal.halted)
    if halted:
        return "RevisionServing", False, "CanaryFailed", f"revision {wanted} serves no more: {halted}"
    told = "; ".join(f"{count.goal.deployment}: {count.loop.reason}" for count in counts if count.loop is not None)
    if told:
        return "RevisionServing", False, "StartFails", f"revision {wanted} does not start: {told}"
    return "RevisionServing", False, "Starting", f"revision {wanted} starts"


def _store_reachable(store_away_s: float) -> tuple[str, bool, str, str]:
    """Written when etcd is back, so it tells how long it was away."""
    if store_away_s > 0:
        return "StoreReachable", False, "Away", "etcd does not answer; what runs keeps running"
    return "StoreReachable", True, "Reachable", "etcd answers"


def _deployment(count: _Count) -> pb.DeploymentStatus:
    told = pb.DeploymentStatus(
        name=count.goal.deployment,
        wanted=count.goal.replicas,
        ready=count.ready,
        reason=_reason(count),
        old_ready=count.old_ready,
    )
    if count.loop is not None:
        told.retry_at.CopyFrom(stamp(count.loop.retry_at))
        told.failures = count.loop.failures
    told.replicas.extend(_replica(row) for row in count.rows)
    return told


def _replica(row: Replica) -> pb.ReplicaStatus:
    return pb.ReplicaStatus(
        id=row.id,
        state=pb.ReplicaState.Name(int(row.state)),
        node=row.node,
        address=row.address,
        pid=row.pid,
        restarts=row.restarts,
        revision=row.revision,
        reason=row.reason[:MAX_REASON],
        since=stamp(row.since),
    )
