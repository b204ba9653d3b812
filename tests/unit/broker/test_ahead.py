"""How many items wait in a replica for those that run."""

from __future__ import annotations

import pytest

from serving.broker.puller.ahead import Ahead
from serving.broker.puller.credits import Credits


def after(*took_s: float) -> Ahead:
    ahead = Ahead()
    for seconds in took_s:
        ahead.ended(seconds)
    return ahead


@pytest.mark.parametrize(
    ("running", "way_s", "places"),
    [(1, 0.005, 1), (1, 0.0001, 0), (8, 0.005, 2), (8, 0.02, 8), (8, 9.0, 8), (4, 0.0, 0)],
)
def test_as_many_wait_as_end_on_the_way_and_no_more_than_run(running: int, way_s: float, places: int) -> None:
    assert after(*[0.02] * 10).places(running, way_s) == places


def test_nothing_waits_before_it_is_known_how_long_items_take() -> None:
    assert after(*[0.02] * 4).places(1, 0.005) == 0
    assert after(0.0, 0.0, *[0.02] * 4).places(1, 0.005) == 0


def test_a_few_that_take_long_do_not_change_what_is_usual() -> None:
    assert after(*[0.02] * 60, 2.0, 2.0).patience_s == pytest.approx(0.04)
    assert after(*[0.02] * 60, 2.0, 2.0).places(1, 0.005) == 1


def test_after_one_went_back_none_is_asked_for_until_something_ends() -> None:
    ahead = after(*[0.02] * 10)
    ahead.gave_back()
    assert ahead.most == 0
    assert ahead.places(1, 0.005) == 0
    ahead.ended(2.0)
    assert ahead.places(1, 0.005) == 1


def test_after_one_went_back_each_end_opens_one_more() -> None:
    """What begins next may take long, too: all of them would go back again."""
    ahead = after(*[0.02] * 10)
    assert ahead.places(8, 0.01) == 4
    ahead.gave_back()
    opened = []
    for _ in range(6):
        ahead.ended(0.02)
        opened.append(ahead.places(8, 0.01))
    assert opened == [1, 2, 3, 4, 4, 4]


def test_what_is_on_its_way_is_no_more_than_what_is_open() -> None:
    """Items that are as short as a fifth of their way."""
    now, ahead = 0.0, Ahead()
    found = Credits(most=100, ahead=ahead)

    def end_one() -> int:
        nonlocal now
        found.started(now + 0.005)
        now += 0.006
        found.ended(now, 0.001)
        return found.wanted - found.at_once

    assert [end_one() for _ in range(20)][-1] == 5
    ahead.gave_back()
    assert found.wanted == found.at_once
    assert [end_one() for _ in range(6)] == [1, 2, 3, 4, 5, 5]


def test_credits_ask_for_what_is_ahead_and_let_so_many_run_as_before() -> None:
    """A serial replica at 20 ms an item, 4 ms from its broker."""
    now, ahead = 0.0, Ahead()
    found = Credits(most=100, ahead=ahead)
    for _ in range(10):
        now += 0.004
        found.started(now)
        now += 0.02
        found.ended(now, 0.02)
    assert (found.at_once, found.found, found.wanted) == (1, 1, 2)
    found.started(now + 0.004)
    found.came(now + 0.008)
    ahead.gave_back()
    found.went()
    assert (found.running, found.wanted) == (1, 1)


def test_a_fixed_number_has_none_ahead() -> None:
    found = Credits(most=100, fixed=3, ahead=after(*[0.02] * 10))
    found.started(0.0)
    found.ended(0.02, 0.02)
    assert (found.at_once, found.found, found.wanted) == (3, 3, 3)
