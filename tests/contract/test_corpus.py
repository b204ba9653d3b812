"""The whole corpus to both servers: the same answers, field by field."""

from __future__ import annotations

import pytest

from tests.contract.corpus_control import control_cases
from tests.contract.corpus_infer import infer_cases
from tests.contract.exchange import Case, differences
from tests.contract.pairs import Pair


def _named(cases: list[Case]) -> list[Case]:
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), "two cases of one name"
    return cases


@pytest.mark.parametrize("case", _named(list(infer_cases())), ids=lambda case: case.name)
def test_inference(case: Case, pair: Pair) -> None:
    found = differences(pair, case)
    assert not found, "\n".join(found)


# These build on each other: what one leaves behind is what the next one finds.
_CONTROL = _named(list(control_cases()))


@pytest.mark.parametrize("number", range(len(_CONTROL)), ids=lambda number: _CONTROL[number].name)
def test_control(number: int, pair: Pair) -> None:
    found = differences(pair, _CONTROL[number], before=_CONTROL[:number])
    assert not found, "\n".join(found)
