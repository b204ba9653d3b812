"""How many requests an endpoint gets: against engines of known capacity, in simulated time."""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.batch.sending.window import Window, WindowConfig
from serving.errors import InvalidArgument


def simulate(window: Window, *, answers: int, capacity: int, step_s: float = 0.1, refuse_above: int = 0) -> list[int]:
    """An engine that computes `capacity` requests at a time; the others wait. Gives the limit at each answer."""
    now, in_flight = 0.0, 0
    slots = [0.0] * capacity  # when each is free
    ends: list[tuple[float, float]] = []
    limits = []
    while len(limits) < answers:
        while in_flight < window.limit:
            if refuse_above and in_flight >= refuse_above:
                window.refused(now, sent_at=now)
                break
            began = max(now, heapq.heappop(slots))
            heapq.heappush(slots, began + step_s)
            heapq.heappush(ends, (began + step_s, now))
            in_flight += 1
        now, sent = heapq.heappop(ends)
        window.answered(now, sent_at=sent, work=1.0, in_flight=in_flight)
        in_flight -= 1
        limits.append(window.limit)
    return limits


@pytest.mark.parametrize("capacity", [2, 8, 24, 100])
def test_it_finds_what_an_engine_computes_at_once(capacity: int) -> None:
    limits = simulate(Window(), answers=6000, capacity=capacity)
    settled = limits[3000:]
    assert min(settled) >= 0.5 * capacity
    assert sum(min(limit, capacity) for limit in settled) >= 0.9 * capacity * len(settled), "it is not kept full"
    assert max(settled) <= 2.0 * capacity + 2, "requests only wait there"


def test_an_endpoint_that_refuses_gets_fewer_and_then_more_again() -> None:
    limits = simulate(Window(), answers=3000, capacity=64, refuse_above=20)
    settled = limits[500:]
    assert max(settled) <= 21
    assert sum(settled) / len(settled) >= 14


def test_a_burst_of_refusals_counts_once() -> None:
    window = Window(WindowConfig(first=100))
    window.refused(1.0, sent_at=0.5)
    for _ in range(50):
        window.refused(1.1, sent_at=0.9)
    assert window.limit == 70
    window.refused(2.0, sent_at=1.5)
    assert window.limit == 49


def test_windows_that_are_not_full_do_not_grow() -> None:
    window = Window(WindowConfig(first=16))
    for number in range(1000):
        window.answered(number + 0.5, sent_at=number, work=1.0, in_flight=3)
    assert window.limit == 16


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0.0, 10.0), st.floats(0.0, 1e6), st.integers(1, 400)), max_size=300),
    st.integers(1, 8),
    st.integers(8, 64),
)
def test_it_stays_within_its_bounds(events: list[tuple[bool, float, float, int]], least: int, most: int) -> None:
    window = Window(WindowConfig(first=8, least=least, most=most))
    now = 0.0
    for answered, passed, work, in_flight in events:
        sent, now = now, now + passed
        if answered:
            window.answered(now, sent_at=sent, work=work, in_flight=in_flight)
        else:
            window.refused(now, sent_at=sent)
        assert least <= window.limit <= most


def test_bounds_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="least <= first <= most"):
        WindowConfig(first=300)


def test_an_engine_that_says_what_it_computes_at_once_is_full_from_the_beginning_and_stays_so() -> None:
    window = Window(WindowConfig().told(32))
    assert window.limit == 64, "as many again wait there for the places of those that end"
    assert set(simulate(window, answers=4000, capacity=32)) == {64}


def test_also_there_a_refusal_lowers_the_window_and_answers_raise_it() -> None:
    window = Window(WindowConfig().told(32))
    limits = simulate(window, answers=3000, capacity=32, refuse_above=40)
    assert min(limits) < 40
    assert max(limits[500:]) <= 41
    assert sum(limits[500:]) / len(limits[500:]) >= 28


@pytest.mark.parametrize(("at_once", "first", "most"), [(0, 16, 256), (1, 2, 2), (1000, 256, 256)])
def test_what_an_engine_says_stays_within_the_bounds(at_once: int, first: int, most: int) -> None:
    told = WindowConfig().told(at_once)
    assert (told.first, told.most) == (first, most)
