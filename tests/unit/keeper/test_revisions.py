from __future__ import annotations

import pytest
from keeper_builders import KEY, app, order, spec, stored

from keeper.picture import AppState
from keeper.revisions import MAX_REVISIONS, Request, mark_deleting, revision_of, store
from serving.errors import Conflict, FailedPrecondition, NotFound
from serving.store import keys

NOTHING = AppState(KEY)


def wish(cpus: float = 1, if_revision: int = 0) -> Request:
    return Request(spec(cpus=cpus), uid="uid-new", now_s=2000.0, author="ann", if_revision=if_revision)


def test_the_first_revision() -> None:
    result = store(wish(), NOTHING, NOTHING)
    assert (result.stored.revision, result.stored.uid, result.changed) == (1, "uid-new", True)
    assert result.change.expects == {keys.spec(KEY): 0, keys.revision(KEY, 1): 0}


def test_unchanged_makes_no_revision() -> None:
    result = store(wish(), app(stored()), NOTHING)
    assert (result.stored.revision, result.changed) == (1, False)


def test_changed_makes_the_next_one_of_the_same_creation() -> None:
    result = store(wish(cpus=2), app(stored(revision=4)), NOTHING)
    assert (result.stored.revision, result.stored.uid) == (5, "uid-a")


def test_if_revision() -> None:
    found = app(stored(revision=4))
    assert store(wish(cpus=2, if_revision=4), found, NOTHING).changed
    with pytest.raises(Conflict, match="revision 3 was expected, the current one is 4"):
        store(wish(cpus=2, if_revision=3), found, NOTHING)
    with pytest.raises(Conflict, match="does not exist"):
        store(wish(if_revision=3), NOTHING, NOTHING)


def test_revisions_of_an_earlier_creation_are_neither_kept_nor_offered() -> None:
    earlier = [stored(revision=number, uid="uid-old", at=1.0) for number in (2, 5)]
    found = app(stored(revision=1), revisions=[stored(revision=1), *earlier])
    with pytest.raises(NotFound, match=r"has no revision 5; kept are: 1$"):
        revision_of(found, 5)
    result = store(wish(cpus=2), found, NOTHING)
    assert result.stored.revision == 2
    assert result.change.deletes == [keys.revision(KEY, 5)]


def test_while_it_is_being_deleted() -> None:
    with pytest.raises(FailedPrecondition, match="is being deleted"):
        store(wish(), app(stored(deleting=True)), NOTHING)


def test_after_it_was_deleted_it_is_new_whatever_an_old_memory_says() -> None:
    buried = app(None, tombstones=[order("east", stored(deleting=True), 2)])
    result = store(wish(), buried, app(stored(deleting=True)))
    assert (result.stored.revision, result.stored.uid) == (1, "uid-new")


def test_numbers_that_a_lost_store_used_are_not_used_again() -> None:
    for known in (app(stored(revision=6)), app(None, orders=[order("east", stored(revision=6))])):
        result = store(wish(cpus=2), app(stored(revision=3)), known)
        assert (result.stored.revision, result.stored.uid) == (7, "uid-a")
        assert store(wish(cpus=2), NOTHING, known).stored.revision == 7


def test_history_is_bounded() -> None:
    kept = [stored(revision=number) for number in range(11, 11 + MAX_REVISIONS)]
    change = store(wish(cpus=2), app(kept[-1], revisions=kept), NOTHING).change
    assert change.deletes == [keys.revision(KEY, 11)]


def test_a_revision_that_is_not_kept() -> None:
    with pytest.raises(NotFound, match="kept are: 2, 3"):
        revision_of(app(stored(), revisions=[stored(revision=2), stored(revision=3)]), 1)


def test_marking_for_deletion() -> None:
    change = mark_deleting(app(stored()))
    assert change.expects == {keys.spec(KEY): 10}
    assert not mark_deleting(app(stored(deleting=True)))
    with pytest.raises(NotFound):
        mark_deleting(NOTHING)
