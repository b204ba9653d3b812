"""Which revision `undo` goes back to."""

from __future__ import annotations

import pytest

from serving._proto import records_pb2 as pb
from serving.errors import NotFound
from serving.sdk.deploying import revision_before
from serving.store.keys import AppKey

KEY = AppKey("default", "shop")


def kept(*specs: str, note: str = "") -> list[pb.StoredSpec]:
    """Newest first; each text stands for a spec. `note` is the newest one's."""
    made = [pb.StoredSpec(spec=pb.ApplicationSpec(name=name), revision=at) for at, name in enumerate(specs, start=1)]
    made[-1].note = note
    return made[::-1]


def test_the_one_before_with_another_spec() -> None:
    assert revision_before(KEY, kept("a", "b")) == 1
    assert revision_before(KEY, kept("a", "b", "c")) == 2
    assert revision_before(KEY, kept("a", "b", "b")) == 1


def test_undo_of_an_undo_goes_forth_again() -> None:
    assert revision_before(KEY, kept("a", "b", "a", note="rollback to revision 1")) == 2


def test_what_the_keeper_went_back_from_is_not_tried_again() -> None:
    note = "automatic rollback to revision 2: digits: no\nsuch model"
    assert revision_before(KEY, kept("a", "b", "bad", "b", note=note)) == 1


def test_nothing_to_go_back_to() -> None:
    for only in (kept("a"), kept("a", "a"), kept("b", "bad", "b", note="automatic rollback to revision 1: x")):
        with pytest.raises(NotFound, match="default/shop has no revision before"):
            revision_before(KEY, only)
