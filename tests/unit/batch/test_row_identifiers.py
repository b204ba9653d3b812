"""Identifiers: equal in every run, unlike for unlike rows, small in memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.batch.checkpoint.identifiers import (
    IdentifierSet,
    first_ones,
    identifier_of_place,
    identifier_of_value,
    packed,
    unpacked,
)
from serving.errors import DataLoss, InvalidArgument

_IDS = st.lists(st.binary(min_size=16, max_size=16), max_size=60)


def test_a_value_names_a_row_whatever_the_order_of_its_keys() -> None:
    assert identifier_of_value({"a": 1, "b": 2}) == identifier_of_value({"b": 2, "a": 1})
    assert identifier_of_value(1) != identifier_of_value("1")
    with pytest.raises(InvalidArgument, match="every row needs one"):
        identifier_of_value(None)


def test_place_and_content_name_a_row() -> None:
    one = identifier_of_place("a", 1, b"x")
    assert len(bytes.fromhex(one)) == 16
    others = {identifier_of_place("b", 1, b"x"), identifier_of_place("a", 2, b"x"), identifier_of_place("a", 1, b"y")}
    assert one not in others
    assert len(others) == 3


@given(st.lists(_IDS, max_size=8))
def test_the_set_knows_what_was_added_and_nothing_else(runs: list[list[bytes]]) -> None:
    known: set[bytes] = set()
    finished = IdentifierSet()
    for run in runs:
        ids = unpacked(b"".join(run), "test")
        mask = first_ones(ids, finished)
        fresh = [one for number, one in enumerate(run) if one not in known and one not in run[:number]]
        assert mask.tolist() == [one not in known and one not in run[:number] for number, one in enumerate(run)]
        finished.add(ids[mask])
        known.update(fresh)
    assert len(finished) == len(known)
    if known:
        everything = unpacked(b"".join(sorted(known)), "test")
        assert finished.contains(everything).all()
        assert (finished.sorted() == np.sort(everything)).all()


def test_a_million_identifiers_take_sixteen_bytes_each() -> None:
    finished = IdentifierSet()
    random = np.random.default_rng(7)
    for _ in range(100):
        finished.add(np.frombuffer(random.bytes(16 * 10_000), dtype="S16"))
    assert finished.nbytes == 16 * 1_000_000
    assert len(finished._runs) <= 21


def test_a_column_that_a_step_has_changed_is_refused() -> None:
    for wrong in (["zz" * 16], [None], ["ab"], [7]):
        with pytest.raises(InvalidArgument, match="__row__"):
            packed(wrong)  # type: ignore[arg-type]
    with pytest.raises(DataLoss, match="17 bytes"):
        unpacked(b"x" * 17, "parts/1/a")
