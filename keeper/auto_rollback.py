"""Going back by itself to the last revision that was ready, where a specification asks for that. Pure."""

from __future__ import annotations

from typing import Final

from keeper.changes import Change
from keeper.picture import AppState, Versioned
from keeper.revisions import Request, kept_revisions, store
from serving._proto import records_pb2 as pb

ROLLBACK: Final = "rollback"  # of `ApplicationSpec.on_failed_rollout`
FAILURES: Final = 3  # replicas in a row: the first ones may be a node's fault
CANARY_FAILED: Final = "failed"  # of `CanaryState.phase`
NOTE: Final = "automatic rollback to revision"
MAX_REASON: Final = 600  # letters of the reason that the new revision's note repeats


def roll_back(app: AppState, spec: Versioned[pb.StoredSpec], now_s: float) -> Change:
    """The next revision, with the spec of the last one that was ready; empty when there is no reason for it.

    A revision that is itself an automatic rollback is never rolled back: two that both fail would alternate for ever.
    """
    stored, status = spec.value, app.status.value if app.status else None
    if stored.spec.on_failed_rollout != ROLLBACK or stored.note.startswith(NOTE) or status is None:
        return Change()
    about = status.uid == stored.uid and status.revision == stored.revision
    # Of a revision that changes several deployments one may be through, so that no revision is served by all.
    target = status.complete_revision or status.serving_revision
    if not about or not 0 < target < stored.revision:
        return Change()
    failed = [one for one in status.deployments if one.failures >= FAILURES or one.canary.phase == CANARY_FAILED]
    canaries = {one.name for one in failed if one.canary.phase == CANARY_FAILED}
    kept = kept_revisions(app).get(target)
    if not failed or kept is None:
        return Change()
    reason = "; ".join(f"{found.name}: {found.reason}" for found in failed)[:MAX_REASON]
    note = f"{NOTE} {target}: {reason}"
    spec_then = kept.value.spec
    wanted = taken_back(stored.spec, spec_then, canaries) if len(canaries) == len(failed) else spec_then
    wish = Request(wanted, uid=stored.uid, now_s=now_s, author="keeper", note=note, resume=True)
    change = store(wish, app, app).change
    change.note("rolled-back", f"{app.key} revision {stored.revision}: {note}", warning=True)
    return change


def taken_back(current: pb.ApplicationSpec, then: pb.ApplicationSpec, names: set[str]) -> pb.ApplicationSpec:
    """`current` with these deployments as they were `then`, but for their numbers.

    A canary takes hours, in which weights and sizes change: what others did meanwhile stays.
    """
    made = pb.ApplicationSpec()
    made.CopyFrom(current)
    before = {one.name: one for one in then.deployments}
    for deployment in made.deployments:
        old = before.get(deployment.name)
        if deployment.name not in names or old is None:
            continue
        replicas, scaled = pb.Replicas(), pb.Autoscaling()
        replicas.CopyFrom(deployment.replicas)
        scaled.CopyFrom(deployment.autoscaling)
        had_autoscaling = deployment.HasField("autoscaling")
        deployment.CopyFrom(old)
        deployment.replicas.CopyFrom(replicas)
        deployment.ClearField("autoscaling")
        if had_autoscaling:
            deployment.autoscaling.CopyFrom(scaled)
    return made
