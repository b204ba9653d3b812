"""The leading keeper's next step for one application. Pure: snapshot in, at most one transaction out.

Every step can be repeated, and every step leads to a state from which the same function finds the next one.
"""

from __future__ import annotations

from keeper.adopt import adopt
from keeper.auto_rollback import roll_back
from keeper.changes import Change, Plan
from keeper.picture import AppState, Versioned
from keeper.placement import Choice, Current, Liveness, NoFit, decide
from keeper.quota import exceeded
from keeper.removal import plan_removal, sweep
from keeper.world import World
from serving._proto import records_pb2 as pb
from serving.stamps import stamp
from serving.store import keys

REASONS_PERIOD_S = 2.0  # free room changes all the time; an application that waits need not be rewritten as often


def plan(app: AppState, world: World) -> Plan:
    """What to write next for this application."""
    if app.damaged:
        first = min(app.damaged)
        return Plan(blocked=f"the record {first} is damaged: {app.damaged[first]}")
    swept = sweep(app)
    if swept:
        return Plan(swept)
    adopted = adopt(app, world)
    if adopted:
        return Plan(adopted)
    if app.spec is None:
        return Plan()
    if app.spec.value.deleting:
        return plan_removal(app, app.spec, world)
    rolled_back = roll_back(app, app.spec, world.now_s)
    if rolled_back:
        return Plan(rolled_back)
    return _place(app, app.spec, world)


def decision_of(app: AppState, uid: str) -> Versioned[pb.Decision] | None:
    """The decision, if it is about this creation of the application."""
    return app.decision if app.decision and app.decision.value.uid == uid else None


def _place(app: AppState, spec: Versioned[pb.StoredSpec], world: World) -> Plan:
    stored = spec.value
    found = decision_of(app, stored.uid)
    if found is None:
        wait = _awaits_adoption(app, world)
        if wait > 0:
            return Plan(again_after_s=wait)
    current = _current(app, found, stored)
    answer = choose(stored, current, found, world)
    if isinstance(answer, NoFit):
        return _unplaceable(app, spec, found, answer, world)
    return _placed(app, spec, found, answer, world)


def choose(
    stored: pb.StoredSpec, current: Current | None, found: Versioned[pb.Decision] | None, world: World
) -> Choice | NoFit:
    """The placement by quota and room. What was placed once is not measured against the quota again."""
    settled = current is not None and found is not None and found.value.revision == stored.revision
    reason = "" if settled else exceeded(stored.spec, world.specs, world.quotas)
    if reason:
        return NoFit((("", reason),))
    return decide(stored.spec, current, world.clusters, world.placed)


def _awaits_adoption(app: AppState, world: World) -> float:
    """Seconds to wait because a master runs somewhere whose work order the store lost; 0 when there is none."""
    if not world.running_on(app.key):
        return 0.0
    since = world.known_since.get(app.key, world.now_s)
    return max(0.0, since + world.adopt_grace_s - world.now_s)


def _current(app: AppState, found: Versioned[pb.Decision] | None, stored: pb.StoredSpec) -> Current | None:
    if found is None or not found.value.cluster:
        return None
    placed = app.placements.get(found.value.cluster)
    spec = placed.value.stored.spec if placed and placed.value.stored.uid == stored.uid else stored.spec
    return Current(found.value.cluster, spec)


def _placed(
    app: AppState, spec: Versioned[pb.StoredSpec], found: Versioned[pb.Decision] | None, choice: Choice, world: World
) -> Plan:
    stored = spec.value
    order = _order(stored, choice.cluster, found.value.generation if choice.stays and found else app.generation() + 1)
    decision = pb.Decision(
        uid=stored.uid,
        cluster=choice.cluster,
        generation=order.generation,
        revision=stored.revision,
        decided_at=stamp(world.now_s),
        why=found.value.why if choice.stays and found else choice.why,
    )
    change = Change()
    place = app.placements.get(choice.cluster)
    if place is None or place.value != order:
        change.put(keys.placement(choice.cluster, app.key), place, order)
    if found is None or not _same_decision(found.value, decision):
        change.put(keys.decision(app.key), app.decision, decision)
        if not choice.stays:
            change.note("placed", f"{app.key} goes to {choice.cluster} as generation {order.generation}: {choice.why}")
    _drop_stale(change, app, decision, world)
    if change:
        change.expect(keys.spec(app.key), spec)
    return Plan(change)


def _order(stored: pb.StoredSpec, cluster: str, generation: int) -> pb.Placement:
    return pb.Placement(cluster=cluster, generation=generation, stored=stored)


def _same_decision(old: pb.Decision, new: pb.Decision) -> bool:
    """Equal but for the time, so that looking again writes nothing."""
    return (
        old.uid == new.uid
        and old.cluster == new.cluster
        and old.generation == new.generation
        and old.revision == new.revision
        and list(old.reasons) == list(new.reasons)
    )


def _drop_stale(change: Change, app: AppState, decision: pb.Decision, world: World) -> None:
    """Takes older work orders away: at once from a cluster that is gone, else when the new generation serves."""
    for cluster, placed in sorted(app.placements.items()):
        if cluster == decision.cluster:
            continue
        other_creation = placed.value.stored.uid != decision.uid
        gone = world.liveness(cluster) is Liveness.GONE
        if other_creation or gone or _serves(app, decision):
            change.delete(keys.placement(cluster, app.key), placed)
            change.note("withdrawn", f"{app.key} leaves {cluster} (generation {placed.value.generation})")


def _serves(app: AppState, decision: pb.Decision) -> bool:
    status = app.status.value if app.status else None
    return (
        status is not None
        and status.uid == decision.uid
        and status.generation >= decision.generation
        and status.serving_revision > 0
    )


def _unplaceable(
    app: AppState, spec: Versioned[pb.StoredSpec], found: Versioned[pb.Decision] | None, answer: NoFit, world: World
) -> Plan:
    """Keeps what is there and says why it is no better."""
    stored = spec.value
    decision = pb.Decision(uid=stored.uid, revision=stored.revision, why="fits on no cluster")
    if found is not None:
        decision.CopyFrom(found.value)
        if not found.value.cluster:
            decision.revision = stored.revision
    del decision.reasons[:]
    decision.reasons.extend(pb.ClusterReason(cluster=name, reason=reason) for name, reason in answer.reasons)
    decision.decided_at.CopyFrom(stamp(world.now_s))
    change = Change()
    again = None
    if found is None or not _same_decision(found.value, decision):
        age = world.now_s - (found.value.decided_at.ToNanoseconds() / 1e9 if found else 0.0)
        if found is None or decision.revision != found.value.revision or not 0 <= age < REASONS_PERIOD_S:
            change.put(keys.decision(app.key), app.decision, decision)
        else:
            again = REASONS_PERIOD_S - age
    _keep_order(change, app, decision)
    if decision.cluster:
        _drop_stale(change, app, decision, world)
    if change:
        change.expect(keys.spec(app.key), spec)
    return Plan(change, again_after_s=again)


def _keep_order(change: Change, app: AppState, decision: pb.Decision) -> None:
    """The work order of the revision that stays placed, should the store have lost it."""
    if not decision.cluster or decision.cluster in app.placements:
        return
    kept = app.revisions.get(decision.revision)
    if kept is not None and kept.value.uid == decision.uid:
        order = _order(kept.value, decision.cluster, decision.generation)
        change.put(keys.placement(decision.cluster, app.key), None, order)
