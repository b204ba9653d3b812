"""Revisions of a spec: what a deploy, a rollback and a delete write. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from keeper.changes import Change
from keeper.order import highest, is_later
from keeper.picture import AppState, Versioned
from serving._proto import records_pb2 as pb
from serving.errors import Conflict, FailedPrecondition, NotFound
from serving.stamps import stamp
from serving.store import keys

MAX_REVISIONS: Final = 20


@dataclass(frozen=True, slots=True)
class Request:
    """One wish to store a spec. `uid` is used when the application is new; `if_revision` 0 asks for nothing."""

    spec: pb.ApplicationSpec
    uid: str
    now_s: float
    author: str = ""
    note: str = ""
    if_revision: int = 0
    resume: bool = False  # else a paused rollout stays paused


@dataclass(frozen=True, slots=True)
class Stored:
    """What is stored afterwards, and the change that leads there (empty when the spec was stored already)."""

    stored: pb.StoredSpec
    change: Change

    @property
    def changed(self) -> bool:
        return bool(self.change)


def store(request: Request, found: AppState, known: AppState) -> Stored:
    """The next revision for `request`; the same one when the spec did not change.

    `found` is the application in the store, `known` what this keeper remembers of it: after the store lost something,
    numbers that were used are not used again. Raises `Conflict` and `FailedPrecondition`.
    """
    base = latest(found, known)
    current = base.revision if base else 0
    if request.if_revision and request.if_revision != current:
        raise Conflict(
            f"revision {request.if_revision} was expected, the current one is {current}; read it and decide again"
            if current
            else f"revision {request.if_revision} was expected, but the application does not exist"
        )
    if base is not None and base.deleting:
        raise FailedPrecondition(f"{found.key} is being deleted; wait until it is gone, then deploy again")
    if base is not None and found.spec is not None and found.spec.value.spec == request.spec:
        return Stored(found.spec.value, mark_paused(found, False) if request.resume else Change())
    uid = base.uid if base else request.uid
    number = max(found.revision(uid), known.revision(uid), current) + 1
    stored = pb.StoredSpec(
        spec=request.spec,
        revision=number,
        uid=uid,
        created_at=stamp(request.now_s),
        author=request.author,
        note=request.note,
        paused=base is not None and base.paused and not request.resume,
    )
    return Stored(stored, _write(stored, found))


def latest(found: AppState, known: AppState) -> pb.StoredSpec | None:
    """The latest spec that is stored, remembered or proved by a work order; None when there is none that lives."""
    candidates = [app.spec.value for app in (found, known) if app.spec is not None]
    for app in (found, known):
        best = highest(app, app.placements.values())
        if best is not None:
            candidates.append(best.value.stored)
    buried = found.tombstones.keys() | known.tombstones.keys()
    living = [item for item in candidates if item.uid not in buried or (found.spec and item is found.spec.value)]
    answer: pb.StoredSpec | None = None
    for item in living:
        if answer is None or is_later(item, answer):
            answer = item
    return answer


def _write(stored: pb.StoredSpec, found: AppState) -> Change:
    change = Change()
    change.put(keys.spec(found.key), found.spec, stored)
    change.put(keys.revision(found.key, stored.revision), found.revisions.get(stored.revision), stored)
    ours = {number for number, kept in found.revisions.items() if kept.value.uid == stored.uid} | {stored.revision}
    wanted = {stored.revision, *sorted(ours)[-MAX_REVISIONS:]}
    for number in sorted(found.revisions.keys() - wanted):
        change.delete(keys.revision(found.key, number), found.revisions[number])
    return change


def kept_revisions(found: AppState) -> dict[int, Versioned[pb.StoredSpec]]:
    """Those of the application as it is now: a store that came back older may hold some of an earlier creation."""
    uid = found.spec.value.uid if found.spec else ""
    return {number: kept for number, kept in found.revisions.items() if kept.value.uid == uid}


def revision_of(found: AppState, number: int) -> Versioned[pb.StoredSpec]:
    """The kept revision `number`. Raises `NotFound` that names those that are kept."""
    revisions = kept_revisions(found)
    kept = revisions.get(number)
    if kept is None:
        numbers = ", ".join(str(known) for known in sorted(revisions)) or "none"
        raise NotFound(f"{found.key} has no revision {number}; kept are: {numbers}")
    return kept


def mark_paused(found: AppState, paused: bool) -> Change:
    """Holds the rollout of the current revision, or lets it go on; empty when that is so already.

    Raises `FailedPrecondition` for an application that is being deleted.
    """
    change = Change()
    if found.spec is None or found.spec.value.paused == paused:
        return change
    if found.spec.value.deleting:
        raise FailedPrecondition(f"{found.key} is being deleted; its rollout cannot be paused or resumed")
    stored = pb.StoredSpec()
    stored.CopyFrom(found.spec.value)
    stored.paused = paused
    change.put(keys.spec(found.key), found.spec, stored)
    change.note("paused" if paused else "resumed", f"{found.key}: the rollout of revision {stored.revision}")
    return change


def mark_promoted(found: AppState, revision: int, steps: int) -> Change:
    """Lets canaries of the current revision pass their first `steps` steps; empty when they may already.

    Raises `FailedPrecondition` when `revision` is not the current one, or the application is being deleted.
    """
    change = Change()
    if found.spec is None:
        return change
    current = found.spec.value
    if current.revision != revision:
        raise FailedPrecondition(f"{found.key}: the current revision is {current.revision}, not {revision}")
    if current.deleting:
        raise FailedPrecondition(f"{found.key} is being deleted; its rollout cannot be promoted")
    if current.promoted >= steps:
        return change
    stored = pb.StoredSpec()
    stored.CopyFrom(current)
    stored.promoted = steps
    change.put(keys.spec(found.key), found.spec, stored)
    change.note("promoted", f"{found.key}: canaries of revision {revision} may pass their first {steps} steps")
    return change


def mark_deleting(found: AppState) -> Change:
    """Marks the application for deletion; empty when it is marked already. Raises `NotFound`."""
    if found.spec is None:
        raise NotFound(f"there is no application {found.key}")
    if found.spec.value.deleting:
        return Change()
    stored = pb.StoredSpec()
    stored.CopyFrom(found.spec.value)
    stored.deleting = True
    change = Change()
    change.put(keys.spec(found.key), found.spec, stored)
    return change
