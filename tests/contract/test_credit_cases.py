"""The credits of a replica, by the sequences that `cpp_ext/tests/broker` runs, too."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serving.broker.puller.credits import Credits
from tests.contract.credit_cases import FILE, SECOND_US

CASES = json.loads(FILE.read_text("utf-8"))["cases"]


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_credits(case: dict[str, Any]) -> None:
    given = Credits(least=1, most=case["most"], fixed=case["fixed"])
    now = 0
    wanted = [[0, given.wanted]]
    events = case["events"]
    for number, (since, took) in enumerate(zip(events[::2], events[1::2], strict=True), 1):
        now += since
        if took:
            given.ended(now / SECOND_US, took / SECOND_US)
        else:
            given.started(now / SECOND_US)
        if given.wanted != wanted[-1][1]:
            wanted.append([number, given.wanted])
    assert wanted == case["wanted"]


def test_they_say_something() -> None:
    most = {case["name"]: max(number for _, number in case["wanted"]) for case in CASES}
    assert most["eight at a time"] >= 8
    assert most["not more than three"] == 3
    assert most["tiny items"] >= 25, "the way is covered"
    assert most["tiny items, then long ones"] >= 20
    last = {case["name"]: case["wanted"][-1][1] for case in CASES}
    assert last["tiny items, then long ones"] <= 2
    assert sum(len(case["wanted"]) for case in CASES) > 20, "numbers are tried"
