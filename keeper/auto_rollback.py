"""Going back by itself to the last revision that was ready, where a specification asks for that. Pure."""

from __future__ import annotations

from typing import Final

from keeper.changes import Change
from keeper.picture import AppState, Versioned
from keeper.revisions import Request, kept_revisions, store
from serving._proto import records_pb2 as pb

ROLLBACK: Final = "rollback"  # of `ApplicationSpec.on_failed_rollout`
FAILURES: Final = 3  # replicas in a row: the first ones may be a node's fault
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
    failed = [found for found in status.deployments if found.failures >= FAILURES]
    kept = kept_revisions(app).get(target)
    if not failed or kept is None:
        return Change()
    reason = "; ".join(f"{found.name}: {found.reason}" for found in failed)[:MAX_REASON]
    note = f"{NOTE} {target}: {reason}"
    wish = Request(kept.value.spec, uid=stored.uid, now_s=now_s, author="keeper", note=note, resume=True)
    change = store(wish, app, app).change
    change.note("rolled-back", f"{app.key} revision {stored.revision}: {note}", warning=True)
    return change
