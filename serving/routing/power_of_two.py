"""Which endpoint gets the next request: the better one of two drawn by weight. Pure; time and chance are arguments."""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

LATENCY_TIE = 1.25  # latencies nearer than this factor count as equal, so that noise does not starve an endpoint
DEFAULT_WEIGHT = 100
MIN_OBSERVATIONS = 5  # before a latency is known at all
PLAIN_OBSERVATIONS = 20  # until so many they are averaged plainly


class LatencyTracker:
    """Latency of one endpoint: an average weighted by time, which fades while nothing is observed.

    One slow answer (the first over a new connection, say) must not starve an endpoint: the latency counts as unknown
    until there are `MIN_OBSERVATIONS`, of which the best is taken; the next ones are averaged plainly, and later ones
    count by the time since the one before (`tau_s`). From `hold_s` after the last one the value halves every
    `half_life_s`, so that an endpoint that was slow once gets another try soon, and one that is a hundred times slower
    gets one request in some ten seconds.
    """

    __slots__ = ("_count", "_half_life_s", "_hold_s", "_last", "_tau_s", "_value")

    def __init__(self, *, tau_s: float = 5.0, hold_s: float = 1.0, half_life_s: float = 1.5) -> None:
        self._tau_s = tau_s
        self._hold_s = hold_s
        self._half_life_s = half_life_s
        self._value = 0.0
        self._last = 0.0
        self._count = 0

    def observe(self, latency_s: float, now: float) -> None:
        self._count = min(self._count + 1, PLAIN_OBSERVATIONS)
        if self._count <= MIN_OBSERVATIONS:
            self._value = latency_s if self._count == 1 else min(self._value, latency_s)
        else:
            by_time = 1.0 - math.exp(-max(now - self._last, 0.0) / self._tau_s)
            plainly = 1.0 / self._count if self._count < PLAIN_OBSERVATIONS else 0.0
            self._value += (latency_s - self._value) * max(by_time, plainly)
        self._last = max(now, self._last)

    def latency_s(self, now: float) -> float:
        """Seconds; 0.0 is unknown."""
        if self._count < MIN_OBSERVATIONS:
            return 0.0
        idle = now - self._last - self._hold_s
        return self._value if idle <= 0.0 else self._value * 0.5 ** (idle / self._half_life_s)


class Candidate(Protocol):
    """What the choice looks at."""

    @property
    def in_flight(self) -> int: ...

    @property
    def weight(self) -> int: ...

    def latency_s(self, now: float) -> float: ...


C = TypeVar("C", bound=Candidate)


class PowerOfTwo(Generic[C]):
    """Chooses among a fixed set of candidates; build a new one when the set changes.

    Two candidates are drawn, with probability by weight, and the one with less in-flight work per weight wins; where
    their latencies differ clearly, work counts times latency. Without load the shares follow the weights.
    """

    __slots__ = ("_bounds", "_random", "candidates")

    def __init__(self, candidates: Sequence[C], random: Callable[[], float]) -> None:
        """`random` answers numbers from 0 up to, not including, 1."""
        self.candidates = tuple(candidates)
        self._random = random
        weights = [max(candidate.weight, 1) for candidate in self.candidates]
        self._bounds: list[int] = []
        if len(set(weights)) > 1:
            total = 0
            for weight in weights:
                total += weight
                self._bounds.append(total)

    def pick(self, now: float) -> C | None:
        """The chosen one; None when there is no candidate."""
        count = len(self.candidates)
        if count < 2:
            return self.candidates[0] if count else None
        if self._bounds:
            first, second = self._draw(), self._draw()
            return first if first is second else better(first, second, now)
        index = int(self._random() * count)
        other = int(self._random() * (count - 1))
        return better(self.candidates[index], self.candidates[other + (other >= index)], now)

    def pick_among(self, allowed: Callable[[C], bool], now: float) -> C | None:
        """Like `pick`, only of candidates for which `allowed` says yes; for the rare cases, as it looks at all."""
        return PowerOfTwo([candidate for candidate in self.candidates if allowed(candidate)], self._random).pick(now)

    def _draw(self) -> C:
        bounds = self._bounds
        return self.candidates[bisect(bounds, self._random() * bounds[-1])]


def cost(candidate: Candidate) -> float:
    """Work per weight with the next request on top."""
    return 1.0 + candidate.in_flight * DEFAULT_WEIGHT / max(candidate.weight, 1)


def better(first: C, second: C, now: float) -> C:
    """The one that should get the next request; `first` in a tie."""
    cost_first = cost(first)
    cost_second = cost(second)
    latency_first = first.latency_s(now)
    latency_second = second.latency_s(now)
    if latency_first > 0.0 and latency_second > 0.0:
        ratio = latency_first / latency_second
        if ratio > LATENCY_TIE or ratio * LATENCY_TIE < 1.0:
            cost_first *= ratio
    return second if cost_second < cost_first else first


Rank = Callable[[Mapping[str, str]], int]


def prefer_labels(wanted: Mapping[str, str]) -> Rank:
    """Ranks labels by how many of `wanted` (such as `{"zone": "a"}`) they miss; 0 is best."""
    pairs = tuple(wanted.items())

    def rank(labels: Mapping[str, str]) -> int:
        return sum(labels.get(name) != value for name, value in pairs)

    return rank
