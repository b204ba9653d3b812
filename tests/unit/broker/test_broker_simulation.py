"""The simulator of benchmarks: that it keeps the books, and agrees with what is known of queues."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import fmean

import pytest

from benchmarks.broker_simulation import (
    LONG_FACTOR,
    MEDIAN_S,
    REPLICAS,
    Dispatch,
    Outcome,
    Pulled,
    PulledAhead,
    Work,
    closed_loop,
    mean_s,
    open_loop,
)
from benchmarks.broker_simulator import SIDES, highest, p99

TIMES = "log-normal"
AHEAD = "broker, the same, one ahead"


@pytest.mark.parametrize("side", sorted(SIDES))
def test_each_request_is_answered_once_and_takes_at_least_its_time(side: str) -> None:
    work = Work(TIMES, 3)
    expected = [work.draw() for _ in range(2000)]
    outcome = open_loop(SIDES[side].make(), Work(TIMES, 3, 0.01), 2000, 0.7 * REPLICAS / mean_s(TIMES))
    assert len(outcome.short) + len(outcome.long) == 1800, "without the first tenth"
    assert fmean(outcome.short + outcome.long) >= 0.9 * fmean(request.takes_s for request in expected)
    assert outcome.took_s >= sum(request.takes_s for request in expected) / REPLICAS


@pytest.mark.parametrize("side", sorted(SIDES))
def test_without_load_nobody_waits(side: str) -> None:
    work = Work(TIMES, 4, 0.0)
    expected = sorted(work.draw().takes_s for _ in range(500))
    found = open_loop(SIDES[side].make(), Work(TIMES, 4, 0.0), 500, 0.01)
    way_s = MEDIAN_S / 4 if side == AHEAD else 0.0
    assert fmean(found.short) == pytest.approx(fmean(expected) + way_s, rel=0.1)


def test_one_ahead_covers_the_way_and_what_is_behind_a_long_one_goes_back() -> None:
    def outcome(make: Callable[[], Dispatch], way_s: float = 0.0) -> Outcome:
        return open_loop(make(), Work(TIMES, 3), 800, 0.6 * REPLICAS / mean_s(TIMES), way_s)

    near, ahead = outcome(Pulled), outcome(SIDES[AHEAD].make)
    far = outcome(Pulled, MEDIAN_S / 4)
    assert p99(ahead.short) < (p99(near.short) + p99(far.short)) / 2
    patient = outcome(lambda: PulledAhead(MEDIAN_S / 4, math.inf))
    assert max(patient.short) > LONG_FACTOR / 4 * MEDIAN_S, "one that is sent before long ones are known waits for one"
    assert p99(ahead.short) < p99(patient.short)


def test_closed_loops_keep_all_replicas_busy() -> None:
    for make in (SIDES["broker"].make, SIDES["ideal single queue, FIFO"].make):
        outcome = closed_loop(make(), Work(TIMES, 5, 0.0), 4000, 16)
        assert 4000 / outcome.took_s == pytest.approx(REPLICAS / mean_s(TIMES, 0.0), rel=0.03)


def test_short_ones_wait_least_with_the_broker() -> None:
    def short_p99(make: Callable[[], Dispatch]) -> float:
        return p99(open_loop(make(), Work(TIMES, 6), 8000, 0.7 * REPLICAS / mean_s(TIMES)).short)

    broker = short_p99(SIDES["broker"].make)
    for side in ("round robin", "random", "power of two choices", "JBSQ(2)", "ideal single queue, FIFO"):
        assert broker < short_p99(SIDES[side].make), side


def test_the_highest_that_holds() -> None:
    assert highest(lambda load: load <= 0.6, 0.001) == pytest.approx(0.6, abs=0.001)
    assert highest(lambda _: False, 0.001) == 0.0
    assert p99([float(value) for value in range(1, 101)]) == 99.0
