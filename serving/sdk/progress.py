"""Is a revision ready, on its way, or has it failed? And in one sentence, why. Pure; used while `deploy` waits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from serving._proto import keeper_pb2 as kpb
from serving._proto import records_pb2 as pb
from serving.sdk.status import phase_name, replica_state_name


class Stage(Enum):
    WAITING = 1
    READY = 2
    FAILED = 3
    REPLACED = 4  # by a newer revision, or it was deleted and created anew


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a revision stands; `text` is a sentence for people."""

    stage: Stage
    text: str


def assess(view: kpb.ApplicationView, *, revision: int, uid: str) -> Progress:
    """Where `revision` of the application created as `uid` stands in `view`."""
    stored, status = view.stored, view.status
    if uid and stored.uid and stored.uid != uid:
        return Progress(Stage.REPLACED, "it was deleted and created anew by somebody else")
    if stored.deleting:
        return Progress(Stage.REPLACED, "it is being deleted")
    if stored.revision > revision:
        return Progress(Stage.REPLACED, f"revision {stored.revision} was stored meanwhile")
    about = status.revision == revision and (not stored.uid or status.uid == stored.uid) and _is_current(view)
    if not about:
        return Progress(Stage.WAITING, _before_status(view))
    if view.phase == pb.READY and status.serving_revision >= revision:
        return Progress(Stage.READY, f"READY on {status.cluster}")
    if _has_failed(view, revision):
        return Progress(Stage.FAILED, describe(view, revision))
    return Progress(
        Stage.WAITING, f"{phase_name(view.phase)}: {view.message}" if view.message else describe(view, revision)
    )


def describe(view: kpb.ApplicationView, revision: int) -> str:
    """The phase, then every reason: false conditions, deployments that miss replicas, replicas that are not ready."""
    reasons = list(dict.fromkeys(_reasons(view, revision)))
    head = phase_name(view.phase)
    if view.message and not any(view.message in reason for reason in reasons):
        head += f": {view.message}"
    return "; ".join([head, *reasons])


def _is_current(view: kpb.ApplicationView) -> bool:
    """The status is not of a placement that is over."""
    return not view.decision.cluster or view.status.generation >= view.decision.generation


def _has_failed(view: kpb.ApplicationView, revision: int) -> bool:
    """FAILED says so itself; while older replicas still serve, a failed replica or canary of the new revision does."""
    if view.phase == pb.FAILED or any(one.canary.phase == "failed" for one in view.status.deployments):
        return True
    if view.phase not in (pb.DEGRADED, pb.UPDATING) or view.status.serving_revision >= revision:
        return False
    return any(
        replica.state == pb.REPLICA_FAILED and replica.revision == revision
        for deployment in view.status.deployments
        for replica in deployment.replicas
    )


def _before_status(view: kpb.ApplicationView) -> str:
    decision = view.decision
    if view.message:
        return f"{phase_name(view.phase)}: {view.message}"
    if decision.cluster:
        return f"placed on {decision.cluster}, its application master is starting"
    if not decision.reasons:
        return "waiting for a placement"
    reasons = "; ".join(f"{entry.cluster}: {entry.reason}" for entry in decision.reasons)
    return f"not placed: {reasons}"


def _reasons(view: kpb.ApplicationView, revision: int) -> Iterator[str]:
    for condition in view.status.conditions:
        if not condition.status and condition.message:
            yield condition.message
    for deployment in view.status.deployments:
        if deployment.ready < deployment.wanted or deployment.reason:
            detail = f": {deployment.reason}" if deployment.reason else ""
            yield f"deployment {deployment.name}: {deployment.ready} of {deployment.wanted} replicas ready{detail}"
        for replica in deployment.replicas:
            if replica.revision == revision and replica.state != pb.REPLICA_READY:
                detail = f": {replica.reason}" if replica.reason else ""
                yield f"replica {replica.id} {replica_state_name(replica.state)}{detail}"
