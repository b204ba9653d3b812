"""What a placement proves about a store that lost something else. Pure. See docs/design/0002-store-loss.md."""

from __future__ import annotations

from keeper.changes import Change
from keeper.order import decision_order, highest, is_later, placement_order
from keeper.picture import AppState, Versioned
from keeper.world import World
from serving._proto import records_pb2 as pb
from serving.stamps import stamp
from serving.store import keys

WHY = "restored from the work order of cluster {cluster}"


def adopt(app: AppState, world: World) -> Change | None:
    """Writes back the spec, revision and decision that a placement is proof of; None when the store has them.

    In a store that lost nothing a placement is never higher than the spec and the decision: the three are written in
    order, or together.
    """
    best = highest(app, app.placements.values())
    if best is None:
        return None
    order = best.value
    change = Change()
    if app.spec is None or is_later(order.stored, app.spec.value):
        change.put(keys.spec(app.key), app.spec, order.stored)
        change.puts[keys.revision(app.key, order.stored.revision)] = order.stored
        change.note("restored-spec", f"{app.key}: the spec, {_restored(order)}", warning=True)
    elif app.spec.value.uid != order.stored.uid or app.spec.value.deleting:
        return None  # an older creation, or one that is being deleted: not ours to bring back
    if _proves_decision(app.decision, order):
        decision = pb.Decision(
            uid=order.stored.uid,
            cluster=order.cluster,
            generation=order.generation,
            revision=order.stored.revision,
            decided_at=stamp(world.now_s),
            why=_restored(order),
        )
        change.put(keys.decision(app.key), app.decision, decision)
        change.note("restored-decision", f"{app.key}: the decision, {decision.why}", warning=True)
    if not change:
        return None
    change.expect(keys.placement(order.cluster, app.key), best)
    change.expect(keys.deleted(app.key, order.stored.uid), None)
    return change


def _restored(order: pb.Placement) -> str:
    return WHY.format(cluster=order.cluster)


def _proves_decision(found: Versioned[pb.Decision] | None, order: pb.Placement) -> bool:
    if found is None or found.value.uid != order.stored.uid:
        return True
    if found.value.generation == order.generation and found.value.cluster != order.cluster:
        return False
    return decision_order(found.value) < placement_order(order)
