"""The endpoint that should answer first. Pure; time and chance are arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic

from serving.routing.power_of_two import MIN_OBSERVATIONS, C, Candidate, cost


class LeastLatency(Generic[C]):
    """Chooses among a fixed set of candidates, all of which it looks at; ties by chance.

    Candidates of unknown latency have the first turn, the one with the fewest requests first, so that they become
    known; but only until they run as many requests as that takes, so that one that hangs does not take all. The known
    ones follow, by the time that a request should take: work per weight times latency. Then come unknown ones that
    have enough to do.
    """

    __slots__ = ("_random", "candidates")

    def __init__(self, candidates: Sequence[C], random: Callable[[], float]) -> None:
        """`random` answers numbers from 0 up to, not including, 1."""
        self.candidates = tuple(candidates)
        self._random = random

    def pick(self, now: float) -> C | None:
        """The chosen one; None when there is no candidate."""
        best: C | None = None
        least = (0, 0.0)
        ties = 1
        for candidate in self.candidates:
            found = expected(candidate, now)
            if best is None or found < least:
                best, least, ties = candidate, found, 1
            elif found == least:
                ties += 1
                if self._random() * ties < 1.0:  # each of them with the same chance, without a list
                    best = candidate
        return best

    def pick_among(self, allowed: Callable[[C], bool], now: float) -> C | None:
        """Like `pick`, only of candidates for which `allowed` says yes."""
        return LeastLatency([candidate for candidate in self.candidates if allowed(candidate)], self._random).pick(now)


def expected(candidate: Candidate, now: float) -> tuple[int, float]:
    """Its turn and, within that, its cost; less is better."""
    latency_s = candidate.latency_s(now)
    if latency_s > 0.0:
        return 1, cost(candidate) * latency_s
    return (0 if candidate.in_flight < MIN_OBSERVATIONS else 2), float(candidate.in_flight)
