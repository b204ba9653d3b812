from __future__ import annotations

import copy

from hypothesis import given
from hypothesis import strategies as st
from keeper_builders import KEY, app, decision, order, spec, stored
from test_plan import applied

from keeper.picture import AppState
from keeper.restore import came_back, restore
from keeper.revisions import kept_revisions
from serving.store import keys


def restored(known: AppState, found: AppState) -> AppState:
    """Applies changes until nothing is missing."""
    state = copy.deepcopy(found)
    for _ in range(20):
        change = restore(known, state, 9000.0, "restored")
        if change is None:
            return state
        assert not change.deletes
        assert not change.delete_prefixes
        applied(state, change)
    raise AssertionError("restoring does not come to an end")


def known_app() -> AppState:
    versions = [stored(revision=number) for number in (1, 2, 3)]
    return app(
        versions[2],
        decided=decision("east", versions[2], 4),
        orders=[order("east", versions[2], 4)],
        revisions=versions,
        tombstones=[order("west", stored(uid="uid-old", at=1.0), 2)],
    )


def test_everything_comes_back_into_an_empty_store() -> None:
    known = known_app()
    state = restored(known, AppState(KEY))
    assert known.spec is not None
    assert known.decision is not None
    assert state.spec is not None
    assert state.decision is not None
    assert state.spec.value == known.spec.value
    assert state.decision.value.why == "restored"
    assert (state.decision.value.cluster, state.decision.value.generation) == ("east", 4)
    assert state.placements["east"].value == known.placements["east"].value
    assert set(state.revisions) == {1, 2, 3}
    assert set(state.tombstones) == {"uid-old"}


def test_spec_decision_and_work_order_come_back_in_one_transaction() -> None:
    known = known_app()
    known.tombstones.clear()
    change = restore(known, AppState(KEY), 9000.0, "restored")
    assert change is not None
    assert set(change.puts) == {keys.spec(KEY), keys.decision(KEY), keys.placement("east", KEY)}
    assert set(change.expects.values()) == {0}
    assert keys.deleted(KEY, "uid-a") in change.expects


def test_older_records_are_raised_and_newer_ones_left() -> None:
    known = known_app()
    old = stored(revision=1)
    state = restored(known, app(old, decided=decision("west", old, 1), orders=[order("west", old, 1)]))
    assert state.spec is not None
    assert state.decision is not None
    assert (state.spec.value.revision, state.decision.value.cluster) == (3, "east")
    newer = stored(revision=7)
    found = app(newer, decided=decision("west", newer, 9), orders=[order("west", newer, 9)])
    state = restored(known, found)
    assert state.spec == found.spec
    assert state.decision == found.decision
    assert state.placements == found.placements


def test_revisions_of_an_earlier_creation_are_replaced() -> None:
    known = known_app()
    earlier = [stored(revision=number, uid="uid-old", at=1.0) for number in (1, 2, 3, 4)]
    state = restored(known, app(earlier[3], revisions=earlier))
    assert known.spec is not None
    assert state.spec is not None
    assert state.spec.value == known.spec.value
    assert {number: state.revisions[number].value for number in known.revisions} == {
        number: kept.value for number, kept in known.revisions.items()
    }
    assert set(kept_revisions(state)) == {1, 2, 3}  # 4 is of the earlier creation


def test_a_deletion_is_not_taken_back() -> None:
    known = known_app()
    found = app(None, tombstones=[order("east", stored(revision=3), 4)])
    state = restored(known, found)
    assert state.spec is None
    assert state.decision is None
    assert not state.placements


def test_an_application_created_anew_is_left_alone() -> None:
    found = app(stored(uid="uid-new", at=5000.0))
    assert restored(known_app(), found).spec == found.spec


def test_a_deletion_under_way_goes_on() -> None:
    known = app(stored(deleting=True), tombstones=[order("east", stored(), 1)])
    state = restored(known, app(stored(), decided=decision("east", stored()), orders=[order("east", stored())]))
    assert "uid-a" in state.tombstones


def test_what_was_deleted_and_came_back_is_left_and_named() -> None:
    known = app(None, tombstones=[order("east", stored(), 1)])
    found = app(stored())
    assert came_back(known, found)
    assert restored(known, found).tombstones == {}
    assert not came_back(known, AppState(KEY))


specs = st.builds(
    stored,
    st.just(spec()),
    revision=st.integers(1, 4),
    uid=st.sampled_from(["uid-a", "uid-b"]),
    deleting=st.booleans(),
)


@st.composite
def apps(draw: st.DrawFn) -> AppState:
    of = draw(st.none() | specs)
    state = app(of)
    if of is not None:
        if draw(st.booleans()):
            state = app(of, decided=decision(draw(st.sampled_from(["east", "west"])), of, draw(st.integers(1, 4))))
        on = draw(st.sampled_from(["east", "west"]))
        state.placements = app(of, orders=[order(on, of, draw(st.integers(1, 4)))]).placements
    if draw(st.booleans()):
        state.tombstones = app(None, tombstones=[order("east", draw(specs))]).tombstones
    return state


@given(apps(), apps())
def test_restoring_ends_deletes_nothing_and_lowers_nothing(known: AppState, found: AppState) -> None:
    state = restored(known, found)
    if found.spec is not None:
        assert state.spec is not None
        if state.spec.value.uid == found.spec.value.uid:
            assert state.spec.value.revision >= found.spec.value.revision
    if found.decision is not None:
        assert state.decision is not None
        if state.decision.value.uid == found.decision.value.uid:
            assert state.decision.value.generation >= found.decision.value.generation
    assert set(found.placements) <= set(state.placements)
    assert set(found.tombstones) <= set(state.tombstones)
