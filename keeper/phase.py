"""The phase and the message of an application, derived from its keys and the clusters. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from keeper.placement import Liveness
from serving._proto import records_pb2 as pb

_RESTORED = "restored"


def derive(
    stored: pb.StoredSpec,
    decision: pb.Decision | None,
    status: pb.ApplicationStatus | None,
    liveness: Mapping[str, Liveness],
) -> tuple[pb.Phase, str]:
    """What `mesh status` shows. Clusters that are not in `liveness` were never seen."""
    if decision is not None and decision.uid != stored.uid:
        decision = None
    current = _current(stored, decision, status)
    if stored.deleting:
        return pb.DELETING, _deleting(decision, current)
    if decision is None:
        return pb.PENDING, "waiting for the leading keeper to decide a placement"
    if not decision.cluster:
        return pb.PENDING, _nowhere(decision)
    phase, message = _placed(stored, decision, current, liveness)
    if decision.why.startswith(_RESTORED):
        message = f"{message}; {decision.why}" if message else decision.why
    return phase, message


def _current(
    stored: pb.StoredSpec, decision: pb.Decision | None, status: pb.ApplicationStatus | None
) -> pb.ApplicationStatus | None:
    """The status, unless it is of another application of this name or of an older generation."""
    if status is None or status.uid != stored.uid:
        return None
    if decision is not None and status.generation < decision.generation:
        return None
    return status


def _deleting(decision: pb.Decision | None, status: pb.ApplicationStatus | None) -> str:
    cluster = status.cluster if status else decision.cluster if decision else ""
    return f"waiting for the application to end on cluster {cluster}" if cluster else "is being deleted"


def reasons_text(decision: pb.Decision) -> str:
    """The reasons of a decision in one line."""
    return "; ".join(f"{item.cluster}: {item.reason}" if item.cluster else item.reason for item in decision.reasons)


def _nowhere(decision: pb.Decision) -> str:
    if not decision.reasons:
        return "no cluster is registered; start one, or wait until its agent reports"
    return f"fits on no cluster: {reasons_text(decision)}"


def _placed(
    stored: pb.StoredSpec,
    decision: pb.Decision,
    status: pb.ApplicationStatus | None,
    liveness: Mapping[str, Liveness],
) -> tuple[pb.Phase, str]:
    alive = liveness.get(decision.cluster, Liveness.GONE)
    if alive is Liveness.GONE:
        where = f"cluster {decision.cluster} is gone"
        if decision.reasons:
            return pb.PENDING, f"{where}, and no other cluster fits: {reasons_text(decision)}"
        return pb.PENDING, f"{where}; it is being placed elsewhere"
    phase, message = _reported(stored, decision, status)
    if alive is Liveness.SILENT:
        silent = f"cluster {decision.cluster} does not report; the state is the last one known"
        message = f"{silent}: {message}" if message else silent
    return phase, message


def _reported(
    stored: pb.StoredSpec, decision: pb.Decision, status: pb.ApplicationStatus | None
) -> tuple[pb.Phase, str]:
    serving = status.serving_revision if status else 0
    if decision.revision < stored.revision:
        return _not_yet_placed(stored, decision, serving)
    if status is None:
        return pb.STARTING, (
            f"placed on cluster {decision.cluster} (generation {decision.generation}); its master has not reported yet"
        )
    if status.revision < decision.revision:
        message = f"the master on {decision.cluster} has not taken up revision {decision.revision} yet"
        return (pb.UPDATING if serving else pb.STARTING), message
    return (status.phase or pb.STARTING), status.message


def _not_yet_placed(stored: pb.StoredSpec, decision: pb.Decision, serving: int) -> tuple[pb.Phase, str]:
    """A newer revision is stored than the one that is placed."""
    if not decision.reasons:
        message = f"revision {stored.revision} waits for the leading keeper"
        return (pb.UPDATING if serving else pb.STARTING), message
    message = f"revision {stored.revision} fits on no cluster: {reasons_text(decision)}"
    if serving:
        return pb.DEGRADED, f"{message}; revision {serving} keeps serving on {decision.cluster}"
    return pb.PENDING, f"{message}; revision {decision.revision} stays placed on {decision.cluster}"
