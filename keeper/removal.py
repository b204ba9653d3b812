"""Taking an application away, step by step, and sweeping up what a deleted one left. Pure."""

from __future__ import annotations

from keeper.changes import Change, Plan
from keeper.picture import AppState, Versioned
from keeper.placement import Liveness
from keeper.world import World
from serving._proto import records_pb2 as pb
from serving.store import keys

LOOK_AGAIN_S = 1.0


def plan_removal(app: AppState, spec: Versioned[pb.StoredSpec], world: World) -> Plan:
    """First the tombstone, and decision and work orders away; when nothing runs any more, everything else."""
    uid = spec.value.uid
    change = Change()
    if uid not in app.tombstones:
        change.put(keys.deleted(app.key, uid), None, _tombstone(app, spec.value))
    if app.decision is not None:
        change.delete(keys.decision(app.key), app.decision)
    for cluster, placed in sorted(app.placements.items()):
        change.delete(keys.placement(cluster, app.key), placed)
    if change:
        change.expect(keys.spec(app.key), spec)
        change.note("deleting", f"{app.key} is being deleted")
        return Plan(change)
    waits = _still_runs(app, uid, world)
    if waits:
        return Plan(again_after_s=LOOK_AGAIN_S)
    change.expect(keys.spec(app.key), spec)
    change.expect(keys.status(app.key), app.status)
    change.delete_prefixes.append(keys.app(app.key))
    change.note("deleted", f"{app.key} is deleted")
    return Plan(change)


def _still_runs(app: AppState, uid: str, world: World) -> bool:
    """A status, or a living agent that still reports a master; a cluster that is gone is not waited for."""
    status = app.status.value if app.status else None
    if status is not None and status.uid == uid and world.liveness(status.cluster) is not Liveness.GONE:
        return True
    return bool(world.running_on(app.key))


def sweep(app: AppState) -> Change | None:
    """Work orders and a status that belong to a deleted application (its tombstone says so)."""
    change = Change()
    for cluster, placed in sorted(app.placements.items()):
        uid = placed.value.stored.uid
        if uid in app.tombstones and not _is_being_deleted(app, uid):
            change.delete(keys.placement(cluster, app.key), placed)
    if app.status is not None and app.spec is None and app.status.value.uid in app.tombstones:
        change.delete(keys.status(app.key), app.status)
    if not change:
        return None
    change.expect(keys.spec(app.key), app.spec)
    change.note("swept", f"{app.key}: removed what a deleted application of this name had left")
    return change


def _is_being_deleted(app: AppState, uid: str) -> bool:
    return app.spec is not None and app.spec.value.uid == uid and app.spec.value.deleting


def _tombstone(app: AppState, stored: pb.StoredSpec) -> pb.Placement:
    """The last work order, or one without a cluster for an application that never had any."""
    tombstone = pb.Placement(generation=app.generation(), stored=stored)
    if app.decision is not None:
        tombstone.cluster = app.decision.value.cluster
    tombstone.stored.deleting = True
    return tombstone
