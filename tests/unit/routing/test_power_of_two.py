"""The choice among endpoints: who may be chosen, how shares follow weights and load."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.routing import LatencyTracker, PowerOfTwo, better, prefer_labels


@dataclass(eq=False)
class Fake:
    name: str
    in_flight: int = 0
    weight: int = 100
    latency: float = 0.0

    def latency_s(self, now: float) -> float:
        return self.latency if now >= 0.0 else 0.0


fakes = st.lists(
    st.builds(
        Fake,
        name=st.just("x"),
        in_flight=st.integers(0, 50),
        weight=st.integers(0, 1000),
        latency=st.one_of(st.just(0.0), st.floats(1e-5, 10)),
    ),
    min_size=1,
    max_size=8,
)


def shares(candidates: list[Fake], picks: int, *, seed: int = 1) -> dict[str, float]:
    choice = PowerOfTwo(candidates, Random(seed).random)
    counted = Counter(chosen.name for _ in range(picks) if (chosen := choice.pick(0.0)))
    return {name: count / picks for name, count in counted.items()}


def test_nothing_to_choose_from() -> None:
    assert PowerOfTwo([], Random(1).random).pick(0.0) is None


@given(fakes, st.integers())
def test_the_choice_is_a_candidate(candidates: list[Fake], seed: int) -> None:
    assert PowerOfTwo(candidates, Random(seed).random).pick(0.0) in candidates


@given(fakes, st.integers(), st.integers(0, 255))
def test_pick_among_never_picks_what_is_not_allowed(candidates: list[Fake], seed: int, mask: int) -> None:
    allowed = [candidate for index, candidate in enumerate(candidates) if mask >> index & 1]
    picked = PowerOfTwo(candidates, Random(seed).random).pick_among(lambda one: one in allowed, 0.0)
    assert picked in allowed if allowed else picked is None


@given(fakes, st.integers())
def test_equal_weights_never_choose_the_worst_of_two(candidates: list[Fake], seed: int) -> None:
    """Two different ones are compared, so one that is worse than every other one gets nothing."""
    for candidate in candidates:
        candidate.weight, candidate.latency = 100, 0.0
    loser = Fake("loser", in_flight=max(candidate.in_flight for candidate in candidates) + 1)
    choice = PowerOfTwo([*candidates, loser], Random(seed).random)
    assert all(choice.pick(0.0) is not loser for _ in range(20))


@pytest.mark.parametrize("weights", [(100, 100, 100), (100, 300), (1, 1, 2, 4), (5, 95)])
def test_without_load_shares_follow_weights(weights: tuple[int, ...]) -> None:
    candidates = [Fake(str(index), weight=weight) for index, weight in enumerate(weights)]
    got = shares(candidates, 20_000)
    for candidate in candidates:
        assert got[candidate.name] == pytest.approx(candidate.weight / sum(weights), abs=0.02)


@given(st.lists(st.integers(1, 500), min_size=2, max_size=6), st.integers())
def test_in_flight_work_stays_balanced_by_weight(weights: list[int], seed: int) -> None:
    """Requests that never end: nobody gets far more than their share."""
    candidates = [Fake(str(index), weight=weight) for index, weight in enumerate(weights)]
    choice = PowerOfTwo(candidates, Random(seed).random)
    for _ in range(400):
        chosen = choice.pick(0.0)
        assert chosen is not None
        chosen.in_flight += 1
    for candidate in candidates:
        fair = 400 * candidate.weight / sum(weights)
        assert candidate.in_flight <= fair * 2 + 40


def test_latency_counts_only_when_clearly_different() -> None:
    first, near, slow = Fake("first", latency=0.010), Fake("near", latency=0.0105), Fake("slow", latency=0.1)
    assert better(first, near, 0.0) is first
    assert better(near, first, 0.0) is near, "a tie goes to the first drawn"
    assert better(slow, first, 0.0) is first
    first.in_flight = 20
    assert better(first, slow, 0.0) is slow, "ten times the latency is worth twenty requests less"
    assert better(Fake("new", in_flight=1), slow, 0.0) is slow, "unknown latency: only the work counts"


def test_labels_rank_by_what_they_miss() -> None:
    rank = prefer_labels({"zone": "a", "rack": "1"})
    assert [rank({"zone": "a", "rack": "1"}), rank({"zone": "a"}), rank({"zone": "b"})] == [0, 1, 2]
    assert prefer_labels({})({"any": "thing"}) == 0


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 60)), min_size=1, max_size=50))
def test_latency_stays_within_what_was_observed(observations: list[tuple[float, float]]) -> None:
    tracker, now = LatencyTracker(), 0.0
    for latency, pause in observations:
        now += pause
        tracker.observe(latency, now)
    seen = [latency for latency, _ in observations]
    known = tracker.latency_s(now)
    assert min(seen) - 1e-9 <= known <= max(seen) + 1e-9 if len(seen) >= 5 else known == 0.0


def test_latency_follows_a_change_and_fades() -> None:
    tracker = LatencyTracker(tau_s=5.0, hold_s=1.0, half_life_s=1.5)
    assert tracker.latency_s(0.0) == 0.0
    for step in range(100):
        tracker.observe(0.1, step * 0.1)
    for step in range(300):
        tracker.observe(1.0, 10 + step * 0.1)
    assert tracker.latency_s(40.0) == pytest.approx(1.0, abs=0.02)
    assert tracker.latency_s(39.9 + 1.0 + 1.5) == pytest.approx(0.5, abs=0.02)
    assert tracker.latency_s(80.0) < 1e-6


def test_few_observations_say_nothing() -> None:
    tracker = LatencyTracker()
    for step, latency in enumerate([5.0, 0.01, 0.02, 0.02]):
        tracker.observe(latency, step * 0.01)
        assert tracker.latency_s(step * 0.01) == 0.0
    tracker.observe(0.02, 0.05)
    assert tracker.latency_s(0.05) == 0.01, "not that of the first, which connected"


def test_latency_does_not_depend_on_the_rate() -> None:
    slow, fast = LatencyTracker(), LatencyTracker()
    for tracker, steps in ((slow, 50), (fast, 5000)):
        for step in range(steps):
            now = step * 10 / steps
            tracker.observe(1.0 if now < 5 else 2.0, now)
    assert slow.latency_s(10.0) == pytest.approx(fast.latency_s(10.0), rel=0.1)


def test_time_that_goes_backwards_does_no_harm() -> None:
    tracker = LatencyTracker()
    for _ in range(5):
        tracker.observe(1.0, 10.0)
    tracker.observe(2.0, 5.0)
    assert 1.0 <= tracker.latency_s(10.0) <= 2.0
