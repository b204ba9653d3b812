"""Credits in front of simulated replicas."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.broker.puller.credits import Credits
from serving.errors import InvalidArgument

Speed = Callable[[int], float]  # items' seconds of work that a replica does in a second while so many run


def parallel(most: int) -> Speed:
    return lambda running: float(min(running, most))


def serial(running: int) -> float:
    return float(running > 0)


def softly(running: int) -> float:
    """As a language model's: each one more makes all of them slower by a tenth."""
    return running / (1 + 0.1 * running)


class Replica:
    """Shares its speed among those that run, in front of a broker that always has work, or has it now and then."""

    def __init__(
        self,
        given: Credits,
        speed: Speed,
        *,
        way_s: float = 0.0,
        seed: int = 1,
        spread: float = 0.3,
        item_s: float = 0.1,
    ) -> None:
        self.credits = given
        self.item_s = item_s
        self.speed = speed
        self.way_s = way_s
        self.chance = random.Random(seed)
        self.spread = spread
        self.long = 0.0  # share of items that take a hundred times as long
        self.now = 1.7e9
        self.left: list[list[float]] = []  # seconds of work left, and when it began
        self.coming: list[float] = []
        self.ended = 0
        self.wanted: list[int] = []
        self.rate = math.inf  # items a second that the broker gets
        self._next_arrival = self.now
        self._queued = 0

    def run(self, items: int) -> list[int]:
        """What was wanted at the end of each item."""
        self.wanted = []
        end = self.ended + items
        while self.ended < end:
            self._fill()
            self._step()
        return self.wanted

    def _fill(self) -> None:
        while self.rate < math.inf and self._next_arrival <= self.now:
            self._queued += 1
            self._next_arrival += self.chance.expovariate(self.rate)
        while len(self.left) + len(self.coming) < self.credits.wanted and (self.rate == math.inf or self._queued):
            self._queued -= 1
            heapq.heappush(self.coming, self.now + self.way_s)

    def _step(self) -> None:
        events = [self.coming[0]] if self.coming else []
        if self.rate < math.inf:
            events.append(self._next_arrival)
        each = self.speed(len(self.left)) / len(self.left) if self.left else 0.0
        first = min(range(len(self.left)), key=lambda index: self.left[index][0]) if self.left else 0
        if self.left:
            events.append(self.now + self.left[first][0] / each)
        until = min(events)
        for work in self.left:
            work[0] -= (until - self.now) * each
        self.now = until
        if self.coming and self.coming[0] <= until:
            heapq.heappop(self.coming)
            self.left.append([self._work(), until])
            self.credits.started(until)
        elif self.left and self.left[first][0] <= 1e-6:
            _, began = self.left.pop(first)
            self.credits.ended(until, until - began)
            self.ended += 1
            self.wanted.append(self.credits.wanted)

    def _work(self) -> float:
        return self.chance.lognormvariate(math.log(self.item_s), self.spread) * (
            100 if self.chance.random() < self.long else 1
        )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_a_serial_replica_has_one_and_seldom_two(seed: int, spread: float) -> None:
    replica = Replica(Credits(most=64), serial, seed=seed, spread=spread)
    replica.run(1000)
    wanted = replica.run(4000)
    assert max(wanted) <= 2
    assert fmean(wanted) < 1.2


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_eight_at_once_where_eight_are_as_quick_as_one(seed: int, spread: float) -> None:
    replica = Replica(Credits(most=64), parallel(8), seed=seed, spread=spread)
    replica.run(4000)
    wanted = replica.run(6000)
    assert 7 <= fmean(wanted) <= 11
    assert max(wanted) <= 16


def test_up_to_where_one_more_is_hardly_worth_it() -> None:
    replica = Replica(Credits(most=64), softly, spread=0.2)
    replica.run(8000)
    assert 6 <= fmean(replica.run(8000)) <= 20


@pytest.mark.parametrize("seed", range(3))
def test_items_of_which_some_take_a_hundred_times_as_long(seed: int) -> None:
    replica = Replica(Credits(most=64), serial, seed=seed, spread=0.5)
    replica.long = 0.01
    replica.run(4000)
    assert fmean(replica.run(6000)) < 1.5


@pytest.mark.parametrize("rate", [1.0, 5.0, 9.0])
def test_a_serial_replica_that_is_not_always_busy(rate: float) -> None:
    replica = Replica(Credits(most=64), serial, spread=0.5)
    replica.rate = rate
    replica.run(3000)
    wanted = replica.run(3000)
    assert max(wanted) <= 3
    assert fmean(wanted) < 1.6


def test_follows_a_replica_that_changes() -> None:
    replica = Replica(Credits(most=64), parallel(8))
    replica.run(3000)
    assert fmean(replica.run(1000)) > 6
    replica.speed = serial
    replica.run(6000)
    assert fmean(replica.run(3000)) < 2
    replica.speed = parallel(16)
    replica.run(8000)
    assert fmean(replica.run(6000)) > 11


@pytest.mark.parametrize(("way_s", "expected"), [(0.01, 1), (0.1, 2), (0.5, 2)])
def test_a_long_way_is_covered(way_s: float, expected: int) -> None:
    replica = Replica(Credits(most=64), serial, way_s=way_s, spread=0.1)
    replica.run(1000)
    assert fmean(replica.run(3000)) == pytest.approx(expected, abs=0.25)


@pytest.mark.parametrize("item_s", [0.0003, 0.001])
def test_tiny_items_cover_the_way_and_its_commit(item_s: float) -> None:
    replica = Replica(Credits(most=1024), serial, way_s=0.015, item_s=item_s)
    replica.run(2000)
    began = replica.now
    assert fmean(replica.run(4000)) >= 0.8 * 0.015 / item_s
    assert 4000 * item_s / (replica.now - began) > 0.75, "it is busy"


@pytest.mark.parametrize("seed", range(3))
def test_tiny_items_of_which_some_are_long_do_not_wait_behind_them(seed: int) -> None:
    replica = Replica(Credits(most=1024), serial, way_s=0.015, item_s=0.001, seed=seed)
    replica.long = 0.01
    replica.run(2000)
    assert max(replica.run(4000)) <= 4


def test_tiny_items_that_come_now_and_then_ask_for_little_work() -> None:
    replica = Replica(Credits(most=1024), serial, item_s=0.001)
    replica.rate = 0.5
    assert max(replica.run(1000)) * 0.001 < 0.08


class NumberedCredits(Credits):
    """With what is on the way bounded by its number only, whatever the time."""

    def _on_the_way(self) -> int:
        if not self._cost_s or not self._gaps:
            return 0
        return min(math.ceil(max(min(self._gaps) / self._cost_s - 0.25, 0.0)), self._base)


@given(
    seed=st.integers(0, 1 << 30),
    item_s=st.floats(0.06, 5.0),
    way_s=st.floats(0.0, 2.0),
    spread=st.floats(0.0, 0.3),
    lanes=st.integers(1, 4),
)
@settings(max_examples=40, deadline=None)
def test_long_items_have_no_more_on_the_way_than_their_number_allows(
    seed: int, item_s: float, way_s: float, spread: float, lanes: int
) -> None:
    """The bound of JBSQ: those that run, and for each of them at most one that is on its way."""
    bounded = NumberedCredits(most=64)
    replica = Replica(Credits(most=64), parallel(lanes), way_s=way_s, seed=seed, spread=spread, item_s=item_s * lanes)
    started, ended = replica.credits.started, replica.credits.ended

    def start(now: float) -> None:
        started(now)
        bounded.started(now)
        assert replica.credits.wanted == bounded.wanted

    def end(now: float, took_s: float) -> None:
        ended(now, took_s)
        bounded.ended(now, took_s)
        assert replica.credits.wanted == bounded.wanted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replica.credits, "started", start)
        patch.setattr(replica.credits, "ended", end)
        replica.run(300)
    assert bounded.running == replica.credits.running


def test_fixed() -> None:
    replica = Replica(Credits(most=64, fixed=5), serial)
    assert set(replica.run(500)) == {5}


def test_within_least_and_most() -> None:
    assert set(Replica(Credits(least=3, most=64), serial).run(1000)) <= {3, 4}
    assert max(Replica(Credits(most=4), parallel(64)).run(2000)) == 4
    assert set(Replica(Credits(least=2, most=2), parallel(64)).run(500)) == {2}


def test_times_that_make_no_sense_change_nothing() -> None:
    found = Credits(most=8)
    found.ended(1.0, 1.0)
    assert (found.running, found.wanted) == (0, 1)
    for now, took_s in [(5.0, 0.0), (4.0, -1.0), (6.0, math.nan), (7.0, math.inf), (8.0, 1e9)]:
        found.started(now)
        found.ended(now, took_s)
    assert (found.running, found.wanted) == (0, 1)


@pytest.mark.parametrize(
    "wrong", [{"most": 0}, {"least": 0, "most": 4}, {"least": 5, "most": 4}, {"most": 4, "fixed": -1}]
)
def test_limits_that_make_no_sense(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidArgument, match="credits: "):
        Credits(**wrong)
