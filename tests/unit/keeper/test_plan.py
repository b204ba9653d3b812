from __future__ import annotations

from keeper_builders import KEY, alive, app, cluster, decision, neighbour, order, resources, simple, spec, stored, world

from keeper.changes import Change, Plan
from keeper.picture import AppState, Versioned
from keeper.placement import ClusterState, Liveness
from keeper.plan import plan
from keeper.quota import Limit, Quotas
from serving._proto import records_pb2 as pb
from serving.store import keys

DECISION = keys.decision(KEY)
EAST, WEST = keys.placement("east", KEY), keys.placement("west", KEY)
SPEC = keys.spec(KEY)


def gone(name: str) -> ClusterState:
    return ClusterState(pb.ClusterRecord(name=name), Liveness.GONE)


def applied(state: AppState, change: Change) -> AppState:
    """The state after the change, as the store would hold it."""
    kinds = {SPEC: "spec", DECISION: "decision", keys.status(KEY): "status"}
    for key, record in change.puts.items():
        versioned = Versioned(record, 100)
        if key in kinds:
            setattr(state, kinds[key], versioned)
        elif (placement := keys.parse_placement(key)) is not None:
            state.placements[placement[0]] = versioned  # type: ignore[assignment]
        elif (tombstone := keys.parse_deleted(key)) is not None:
            state.tombstones[tombstone[1]] = versioned  # type: ignore[assignment]
        else:
            state.revisions[int(key.rpartition("/")[2])] = versioned  # type: ignore[assignment]
    for key in change.deletes:
        if key in kinds:
            setattr(state, kinds[key], None)
        elif (placement := keys.parse_placement(key)) is not None:
            del state.placements[placement[0]]
    return state


def status(of: pb.StoredSpec, on: str, generation: int = 1, serving: int = 1) -> pb.ApplicationStatus:
    return pb.ApplicationStatus(
        uid=of.uid, cluster=on, generation=generation, revision=of.revision, serving_revision=serving
    )


def test_first_placement_is_one_transaction_that_depends_on_the_spec() -> None:
    change = plan(app(stored()), world(simple("east", 4))).change
    assert set(change.puts) == {DECISION, EAST}
    assert change.expects == {EAST: 0, DECISION: 0, SPEC: 10}
    placed = change.puts[EAST]
    assert isinstance(placed, pb.Placement)
    assert (placed.generation, placed.stored.revision, placed.cluster) == (1, 1, "east")


def test_settled_is_left_alone() -> None:
    state = app(stored())
    applied(state, plan(state, world(simple("east", 4))).change)
    assert plan(state, world(simple("east", 4), now=9999.0)) == Plan()


def test_a_new_revision_keeps_the_generation() -> None:
    old = stored(revision=1)
    state = app(stored(revision=2), decided=decision("east", old, 3), orders=[order("east", old, 3)])
    change = plan(state, world(simple("east", 4))).change
    placed, decided = change.puts[EAST], change.puts[DECISION]
    assert isinstance(placed, pb.Placement)
    assert isinstance(decided, pb.Decision)
    assert (placed.generation, placed.stored.revision, decided.generation, decided.revision) == (3, 2, 3, 2)


def test_moves_from_a_cluster_that_is_gone_with_the_next_generation() -> None:
    of = stored()
    state = app(of, decided=decision("east", of), orders=[order("east", of)], status=status(of, "east"))
    change = plan(state, world(gone("east"), simple("west", 4))).change
    placed, decided = change.puts[WEST], change.puts[DECISION]
    assert isinstance(placed, pb.Placement)
    assert isinstance(decided, pb.Decision)
    assert (placed.generation, decided.cluster, decided.why) == (2, "west", "cluster east is gone")
    assert change.deletes == [EAST]


def test_silent_changes_nothing() -> None:
    of = stored()
    state = app(of, decided=decision("east", of), orders=[order("east", of)])
    silent = ClusterState(cluster("east", [resources(4)]), Liveness.SILENT)
    assert not plan(state, world(silent, simple("west", 4))).change


def test_gone_and_nothing_else_fits_keeps_the_work_order_and_says_why() -> None:
    of = stored(spec(cpus=8))
    state = app(of, decided=decision("east", of), orders=[order("east", of)])
    change = plan(state, world(gone("east"), simple("west", 4))).change
    decided = change.puts[DECISION]
    assert isinstance(decided, pb.Decision)
    assert set(change.puts) == {DECISION}
    assert not change.deletes
    assert (decided.cluster, decided.generation) == ("east", 1)
    assert {item.cluster: item.reason for item in decided.reasons} == {
        "east": "the cluster is gone",
        "west": "needs 8 CPUs on one node, the largest has 4 for the mesh",
    }
    applied(state, change)
    back = plan(state, world(simple("east", 8), simple("west", 4))).change
    decided = back.puts[DECISION]
    assert isinstance(decided, pb.Decision)
    assert (decided.cluster, decided.generation, len(decided.reasons)) == ("east", 1, 0)


def test_a_revision_that_fits_nowhere_leaves_the_placed_one() -> None:
    old, new = stored(), stored(spec(cpus=64), revision=2)
    state = app(new, decided=decision("east", old), orders=[order("east", old)], revisions=[old, new])
    change = plan(state, world(simple("east", 4))).change
    decided = change.puts[DECISION]
    assert isinstance(decided, pb.Decision)
    assert set(change.puts) == {DECISION}
    assert (decided.cluster, decided.revision, len(decided.reasons)) == ("east", 1, 1)


def test_a_move_while_the_old_cluster_lives_waits_for_the_new_generation_to_serve() -> None:
    old = stored()
    new = stored(spec(policy=pb.PlacementPolicy(clusters=["west"])), revision=2)
    states = (simple("east", 4), simple("west", 4))
    state = app(new, decided=decision("east", old), orders=[order("east", old)], status=status(old, "east"))
    change = plan(state, world(*states)).change
    assert set(change.puts) == {WEST, DECISION}
    assert not change.deletes
    applied(state, change)
    assert not plan(state, world(*states)).change
    state.status = Versioned(status(new, "west", generation=2, serving=2), 50)
    assert plan(state, world(*states)).change.deletes == [EAST]


def test_pending_says_why_and_is_placed_when_a_cluster_comes() -> None:
    state = app(stored())
    change = plan(state, world()).change
    applied(state, change)
    assert state.decision is not None
    assert (state.decision.value.cluster, state.decision.value.generation) == ("", 0)
    assert not plan(state, world()).change
    placed = plan(state, world(simple("east", 4))).change.puts[EAST]
    assert isinstance(placed, pb.Placement)
    assert placed.generation == 1


def test_reasons_that_keep_changing_are_not_written_all_the_time() -> None:
    state = app(stored(spec(cpus=64)))
    applied(state, plan(state, world(simple("east", 4), now=100.0)).change)
    step = plan(state, world(simple("east", 5), now=101.0))
    assert not step.change
    assert step.again_after_s == 1.0
    assert plan(state, world(simple("east", 5), now=102.5)).change


def test_quota_is_a_reason() -> None:
    quotas = Quotas(namespaces={"default": Limit(cpus=1)})
    change = plan(app(stored(spec(cpus=2))), world(simple("east", 4), quotas=quotas)).change
    decided = change.puts[DECISION]
    assert isinstance(decided, pb.Decision)
    assert decided.reasons[0].reason == (
        "the quota of namespace default is exceeded: 1 CPU allowed, 0 CPUs used by other applications, 2 CPUs asked for"
    )


def test_waits_for_the_work_order_of_a_master_that_runs() -> None:
    running = alive(cluster("east", [resources(4)], masters=["default/shop"]))
    since = {KEY: 100.0}
    step = plan(app(stored()), world(running, now=105.0, adopt_grace_s=15.0, known_since=since))
    assert not step.change
    assert step.again_after_s == 10.0
    assert plan(app(stored()), world(running, now=115.0, adopt_grace_s=15.0, known_since=since)).change


def test_the_next_generation_is_above_everything_known() -> None:
    buried = order("west", stored(uid="uid-old", at=1.0), 7)
    state = app(stored(), tombstones=[buried])
    placed = plan(state, world(simple("east", 4))).change.puts[EAST]
    assert isinstance(placed, pb.Placement)
    assert placed.generation == 8


def test_deletion_step_by_step() -> None:
    of = stored(deleting=True)
    state = app(of, decided=decision("east", of, 4), orders=[order("east", stored(), 4)], status=status(of, "east", 4))
    running = alive(cluster("east", [resources(4)], masters=["default/shop"]))
    change = plan(state, world(running)).change
    assert set(change.deletes) == {DECISION, EAST}
    tombstone = change.puts[keys.deleted(KEY, "uid-a")]
    assert isinstance(tombstone, pb.Placement)
    assert (tombstone.generation, tombstone.cluster, tombstone.stored.deleting) == (4, "east", True)
    applied(state, change)
    assert plan(state, world(running)) == Plan(again_after_s=1.0)
    state.status = None
    assert plan(state, world(running)) == Plan(again_after_s=1.0)
    change = plan(state, world(simple("east", 4))).change
    assert change.delete_prefixes == [keys.app(KEY)]


def test_deletion_does_not_wait_for_a_cluster_that_is_gone() -> None:
    of = stored(deleting=True)
    state = app(of, status=status(of, "east"), tombstones=[order("east", of)])
    assert not plan(state, world(ClusterState(pb.ClusterRecord(name="east"), Liveness.SILENT))).change
    assert plan(state, world(gone("east"))).change.delete_prefixes == [keys.app(KEY)]


def test_what_a_deleted_application_left_is_swept_up() -> None:
    of = stored()
    state = app(None, orders=[order("east", of)], status=status(of, "east"), tombstones=[order("east", of)])
    change = plan(state, world(simple("east", 4))).change
    assert set(change.deletes) == {EAST, keys.status(KEY)}


def test_nothing_without_a_tombstone_is_swept_up() -> None:
    assert plan(app(None, status=status(stored(), "east")), world(simple("east", 4))) == Plan()


def test_a_work_order_alone_brings_the_application_back() -> None:
    of = stored(revision=5)
    change = plan(app(None, orders=[order("east", of, 3)]), world(simple("east", 4))).change
    assert set(change.puts) == {SPEC, keys.revision(KEY, 5), DECISION}
    assert change.expects[keys.deleted(KEY, "uid-a")] == 0
    decided = change.puts[DECISION]
    assert isinstance(decided, pb.Decision)
    assert (decided.cluster, decided.generation, decided.revision) == ("east", 3, 5)
    state = applied(app(None, orders=[order("east", of, 3)]), change)
    assert plan(state, world(simple("east", 4))) == Plan()


def test_the_highest_of_several_work_orders_wins() -> None:
    of = stored()
    state = app(None, orders=[order("east", of, 1), order("west", of, 2)])
    applied(state, plan(state, world(simple("east", 4), simple("west", 4))).change)
    assert state.decision is not None
    assert state.decision.value.cluster == "west"


def test_an_older_spec_in_the_store_gives_way_to_the_work_order() -> None:
    state = app(stored(revision=3), orders=[order("east", stored(revision=5), 2)])
    change = plan(state, world(simple("east", 4))).change
    restored = change.puts[SPEC]
    assert isinstance(restored, pb.StoredSpec)
    assert restored.revision == 5
    assert change.expects[SPEC] == 10


def test_a_damaged_record_blocks_and_is_named() -> None:
    state = app(stored())
    state.damaged[DECISION] = "not JSON"
    assert plan(state, world(simple("east", 4))).blocked == f"the record {DECISION} is damaged: not JSON"


def test_room_promised_to_others_is_not_promised_again() -> None:
    taken = neighbour("east", spec("other", cpus=3))
    change = plan(app(stored(spec(cpus=2))), world(simple("east", 4), placed=[taken])).change
    assert set(change.puts) == {DECISION}
