"""What a keeper writes back from its memory when the store came back empty or older. Pure.

See docs/design/0002-store-loss.md. Any keeper may do this, leading or not: each change is create-only or
compare-and-set, never lowers a record, never touches what has a tombstone, and repeats harmlessly.
"""

from __future__ import annotations

from keeper.changes import Change
from keeper.order import decision_order, is_later, placement_order, spec_order
from keeper.picture import AppState, Versioned
from serving._proto import records_pb2 as pb
from serving.stamps import stamp
from serving.store import keys

REVISIONS_PER_CHANGE = 4  # a spec may have half a megabyte, and etcd takes one and a half per transaction


def restore(known: AppState, found: AppState, now_s: float, why: str) -> Change | None:
    """The next change that brings `found` up to what is `known`; None when nothing is missing any more.

    Spec, decision and placements go in one change, so that no leader sees a spec without its decision.
    """
    return _restore_tombstones(known, found) or _restore_app(known, found, now_s, why) or _revisions(known, found)


def came_back(known: AppState, found: AppState) -> bool:
    """True when the application was deleted, and stands in the store again because the store is older."""
    return found.spec is not None and found.spec.value.uid in known.tombstones and known.spec is None


def _restore_tombstones(known: AppState, found: AppState) -> Change | None:
    change = Change()
    standing = found.spec.value.uid if found.spec else ""
    for uid, tombstone in sorted(known.tombstones.items()):
        deleting = known.spec is not None and known.spec.value.uid == uid
        if uid not in found.tombstones and (uid != standing or deleting):
            change.put(keys.deleted(known.key, uid), None, tombstone.value)
    if not change:
        return None
    change.expect(keys.spec(known.key), found.spec)
    change.note("restored-tombstone", f"{known.key}: the record that it was deleted", warning=True)
    return change


def _restore_app(known: AppState, found: AppState, now_s: float, why: str) -> Change | None:
    if not _is_ours(known, found) or known.spec is None:
        return None
    change = Change()
    uid = known.spec.value.uid
    if found.spec is None or is_later(known.spec.value, found.spec.value):
        change.put(keys.spec(known.key), found.spec, known.spec.value)
        change.note("restored-spec", f"{known.key}: the spec, revision {known.spec.value.revision}", warning=True)
    if _decision_missing(known, found, uid):
        _put_decision(change, known, found, now_s, why)
    if not change:
        return None
    change.expect(keys.spec(known.key), found.spec)
    if not known.spec.value.deleting:
        change.expect(keys.deleted(known.key, uid), None)
    return change


def _is_ours(known: AppState, found: AppState) -> bool:
    """False when nothing is known, it was deleted, or somebody created the application anew since."""
    if known.spec is None:
        return False
    uid = known.spec.value.uid
    if uid in found.tombstones:
        return False
    if found.spec is None or found.spec.value.uid == uid:
        return True
    return is_later(known.spec.value, found.spec.value)


def _decision_missing(known: AppState, found: AppState, uid: str) -> bool:
    if known.decision is None or known.decision.value.uid != uid:
        return False
    if found.decision is None or found.decision.value.uid != uid:
        return True
    return decision_order(found.decision.value) < decision_order(known.decision.value)


def _put_decision(change: Change, known: AppState, found: AppState, now_s: float, why: str) -> None:
    if known.decision is None:
        return
    decision = pb.Decision()
    decision.CopyFrom(known.decision.value)
    decision.why = why
    decision.decided_at.CopyFrom(stamp(now_s))
    change.put(keys.decision(known.key), found.decision, decision)
    change.note("restored-decision", f"{known.key}: the decision for {decision.cluster or 'no cluster'}", warning=True)
    for cluster, placed in sorted(known.placements.items()):
        there = found.placements.get(cluster)
        if there is None or _lower(there, placed):
            change.put(keys.placement(cluster, known.key), there, placed.value)
            change.note("restored-placement", f"{known.key}: the work order for {cluster}", warning=True)


def _lower(found: Versioned[pb.Placement], known: Versioned[pb.Placement]) -> bool:
    if found.value.stored.uid != known.value.stored.uid:
        return is_later(known.value.stored, found.value.stored)
    return placement_order(found.value) < placement_order(known.value)


def _revisions(known: AppState, found: AppState) -> Change | None:
    """Older revisions, so that one can still roll back to them; only under the spec that they belong to."""
    if known.spec is None or found.spec is None or found.spec.value.uid != known.spec.value.uid:
        return None
    change = Change()
    for number in sorted(known.revisions, reverse=True):
        old, there = known.revisions[number], found.revisions.get(number)
        current = spec_order(found.spec.value)[0]
        missing = there is None or there.value.uid != old.value.uid  # an older store has those of an older creation
        if old.value.uid == known.spec.value.uid and missing and number <= current:
            change.put(keys.revision(known.key, number), there, old.value)
        if len(change.puts) == REVISIONS_PER_CHANGE:
            break
    if not change:
        return None
    change.expect(keys.spec(known.key), found.spec)
    change.note("restored-revisions", f"{known.key}: revisions {_numbers(change)}", warning=True)
    return change


def _numbers(change: Change) -> str:
    return ", ".join(str(record.revision) for record in change.puts.values() if isinstance(record, pb.StoredSpec))
