"""Pausing a rollout, and going back from a revision that fails."""

from __future__ import annotations

import pytest
from keeper_builders import KEY, alive, app, cluster, decision, order, resources, spec, stored, world

from keeper.auto_rollback import FAILURES, NOTE, roll_back
from keeper.changes import Change
from keeper.picture import AppState
from keeper.plan import plan
from keeper.revisions import Request, mark_paused, mark_promoted, store
from serving._proto import records_pb2 as pb
from serving.errors import FailedPrecondition
from serving.store import keys

GOOD = spec(cpus=1)
BAD = spec(cpus=2)


def with_option(of: pb.ApplicationSpec, option: str = "rollback") -> pb.ApplicationSpec:
    made = pb.ApplicationSpec()
    made.CopyFrom(of)
    made.on_failed_rollout = option
    return made


def failing(
    *, option: str = "rollback", failures: int = FAILURES, serving: int = 1, complete: int = 1, note: str = ""
) -> AppState:
    """Revision 2 fails while revision 1 serves, and was ready once."""
    first = stored(with_option(GOOD, option))
    second = stored(with_option(BAD, option), revision=2)
    second.note = note
    failed = pb.DeploymentStatus(name="digits", wanted=1, ready=1, reason="no such model", failures=failures)
    status = pb.ApplicationStatus(
        uid="uid-a",
        generation=1,
        revision=2,
        serving_revision=serving,
        deployments=[failed],
        complete_revision=complete,
    )
    return app(
        second,
        decided=decision("east", second),
        orders=[order("east", second)],
        status=status,
        revisions=[first, second],
    )


def rolled(state: AppState) -> Change:
    assert state.spec is not None
    return roll_back(state, state.spec, 5000.0)


def test_the_revision_that_serves_is_stored_again_with_the_reason() -> None:
    change = rolled(failing())
    new = change.puts[keys.spec(KEY)]
    assert isinstance(new, pb.StoredSpec)
    assert (new.revision, new.spec, new.uid, new.author) == (3, with_option(GOOD), "uid-a", "keeper")
    assert new.note == f"{NOTE} 1: digits: no such model"
    assert keys.revision(KEY, 3) in change.puts
    assert change.expects[keys.spec(KEY)] == 10, "a deploy in between wins"
    assert [note.kind for note in change.notes] == ["rolled-back"]


def test_a_failed_canary_is_rolled_back() -> None:
    state = failing(failures=0)
    assert state.status is not None
    state.status.value.deployments[0].canary.phase = "stepping"
    assert not rolled(state)
    state.status.value.deployments[0].canary.phase = "failed"
    assert state.spec is not None
    state.spec.value.spec.deployments[0].replicas.min = state.spec.value.spec.deployments[0].replicas.max = 7
    state.spec.value.spec.traffic.add(name="ab")
    new = rolled(state).puts[keys.spec(KEY)]
    assert isinstance(new, pb.StoredSpec)
    expected = with_option(GOOD)
    expected.deployments[0].replicas.min = expected.deployments[0].replicas.max = 7
    expected.traffic.add(name="ab")
    assert (new.revision, new.spec) == (3, expected), "what was changed meanwhile stays"


@pytest.mark.parametrize(
    "state",
    [
        failing(option="stop"),
        failing(option=""),
        failing(failures=FAILURES - 1),
        failing(serving=0, complete=0),
        failing(complete=2),
        failing(note=f"{NOTE} 1: it failed, too"),
    ],
    ids=["told to stop", "told nothing", "too early", "nothing was ever ready", "it was ready", "is a rollback itself"],
)
def test_without_a_reason_nothing_is_stored(state: AppState) -> None:
    assert not rolled(state)


def test_a_status_of_another_revision_or_creation_is_no_reason() -> None:
    for change in ({"revision": 1}, {"uid": "uid-b"}):
        state = failing()
        assert state.status is not None
        state.status.value.MergeFrom(pb.ApplicationStatus(**change))  # type: ignore[arg-type]
        assert not rolled(state)
    state = failing()
    del state.revisions[1]
    assert not rolled(state), "there is nothing to go back to"


def test_the_leader_does_it() -> None:
    east = alive(cluster("east", [resources(8)]))
    change = plan(failing(), world(east)).change
    assert change.puts[keys.spec(KEY)].revision == 3  # type: ignore[union-attr]


def test_pausing_changes_the_spec_and_the_work_order_and_makes_no_revision() -> None:
    first = stored()
    state = app(first, decided=decision("east", first), orders=[order("east", first)])
    change = mark_paused(state, True)
    paused = change.puts[keys.spec(KEY)]
    assert isinstance(paused, pb.StoredSpec)
    assert (paused.paused, paused.revision) == (True, 1)
    assert not mark_paused(state, False), "it goes on already"
    after = app(paused, decided=decision("east", first), orders=[order("east", first)])
    assert not mark_paused(after, True)
    east = alive(cluster("east", [resources(8)]))
    ordered = plan(after, world(east)).change.puts[keys.placement("east", KEY)]
    assert isinstance(ordered, pb.Placement)
    assert ordered.stored.paused
    assert ordered.generation == 1


def test_a_later_revision_stays_paused_and_a_rollback_does_not() -> None:
    paused = stored()
    paused.paused = True
    state = app(paused, revisions=[paused])
    wish = Request(BAD, uid="uid-a", now_s=1.0)
    assert store(wish, state, state).stored.paused
    back = Request(BAD, uid="uid-a", now_s=1.0, resume=True)
    assert not store(back, state, state).stored.paused


def test_what_is_being_deleted_is_not_paused() -> None:
    with pytest.raises(FailedPrecondition, match="is being deleted"):
        mark_paused(app(stored(deleting=True)), True)


def test_it_goes_back_although_no_revision_is_served_by_all_deployments() -> None:
    """One deployment is through with the new revision, the other one fails."""
    assert rolled(failing(serving=0)).puts[keys.spec(KEY)].spec == with_option(GOOD)  # type: ignore[union-attr]


def test_resuming_without_another_spec() -> None:
    paused = stored()
    paused.paused = True
    state = app(paused, revisions=[paused])
    found = store(Request(paused.spec, uid="uid-a", now_s=1.0, resume=True), state, state)
    assert found.stored.revision == 1
    resumed = found.change.puts[keys.spec(KEY)]
    assert isinstance(resumed, pb.StoredSpec)
    assert not resumed.paused


def test_canaries_of_the_current_revision_are_promoted() -> None:
    first = stored()
    state = app(first, revisions=[first])
    change = mark_promoted(state, 1, 2)
    promoted = change.puts[keys.spec(KEY)]
    assert isinstance(promoted, pb.StoredSpec)
    assert (promoted.promoted, promoted.revision) == (2, 1)
    after = app(promoted, decided=decision("east", first), orders=[order("east", first)])
    assert not mark_promoted(after, 1, 2), "again is harmless"
    assert not mark_promoted(after, 1, 1), "nothing is taken back"
    (ordered,) = [
        put
        for put in plan(after, world(alive(cluster("east", [resources(8)])))).change.puts.values()
        if isinstance(put, pb.Placement)
    ]
    assert ordered.stored.promoted == 2
    with pytest.raises(FailedPrecondition, match="the current revision is 1, not 2"):
        mark_promoted(state, 2, 1)
    with pytest.raises(FailedPrecondition, match="is being deleted"):
        mark_promoted(app(stored(deleting=True)), 1, 1)
    wish = Request(BAD, uid="uid-a", now_s=1.0)
    new = store(wish, after, after).change.puts[keys.spec(KEY)]
    assert isinstance(new, pb.StoredSpec)
    assert new.promoted == 0, "the next revision begins anew"
