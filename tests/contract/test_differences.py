"""Each difference that the guide lists is there, and the guide lists them all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.contract.differences import DIFFERENCES, OTHER, PAGE, Difference, page
from tests.contract.pairs import Pair

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.what)
def test_the_difference_is_there(difference: Difference, pair: Pair) -> None:
    pair.restart_after_a_crash()
    ours, theirs = difference.probe(pair.ours), difference.probe(pair.theirs)
    assert ours != theirs, "the same by now: take it from the list"
    assert re.search(difference.ours, ours), ours
    assert re.search(difference.theirs, theirs), theirs


def test_the_guide_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run `python -m tests.contract.differences`"
    for *_, tried in OTHER:
        assert (ROOT / tried).is_file()
