"""The choice and the latencies together, in simulated time: callers that send one request after the other."""

from __future__ import annotations

import heapq
from itertools import count
from random import Random

import pytest

from serving.routing import LatencyTracker, PowerOfTwo


class Endpoint:
    """Answers after a noisy time: `mean_s`, but `first_s` at first."""

    def __init__(self, mean_s: float, first_s: float | None = None) -> None:
        self.in_flight, self.weight, self.answered = 0, 100, 0
        self._mean_s, self._first_s = mean_s, first_s
        self.tracker = LatencyTracker()

    def latency_s(self, now: float) -> float:
        return self.tracker.latency_s(now)

    def takes_s(self, random: Random) -> float:
        first_s, self._first_s = self._first_s, None
        return self._mean_s * random.lognormvariate(0, 0.7) if first_s is None else first_s


def simulate(endpoints: list[Endpoint], *, callers: int, duration_s: float, random: Random) -> None:
    choice, order = PowerOfTwo(endpoints, random.random), count()
    running: list[tuple[float, int, float, Endpoint]] = []

    def send(now: float) -> None:
        chosen = choice.pick(now)
        assert chosen is not None
        chosen.in_flight += 1
        heapq.heappush(running, (now + chosen.takes_s(random), next(order), now, chosen))

    for _ in range(callers):
        send(0.0)
    now = 0.0
    while now < duration_s:
        now, _, sent, endpoint = heapq.heappop(running)
        endpoint.in_flight -= 1
        endpoint.answered += 1
        endpoint.tracker.observe(now - sent, now)
        send(now)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("first_s", [None, 0.05, 1.0])
def test_a_slow_first_answer_starves_nobody(first_s: float | None, seed: int) -> None:
    late, other = Endpoint(0.005, first_s), Endpoint(0.005)
    simulate([late, other], callers=2, duration_s=20.0, random=Random(seed))
    assert late.answered > other.answered / 3


@pytest.mark.parametrize("seed", range(5))
def test_a_slow_endpoint_is_asked_now_and_then(seed: int) -> None:
    """So that it gets work again when it is quick again, at little cost meanwhile."""
    slow, fast = Endpoint(0.5), Endpoint(0.005)
    simulate([slow, fast], callers=8, duration_s=30.0, random=Random(seed))
    assert slow.answered >= 3
    assert slow.answered < fast.answered / 200
