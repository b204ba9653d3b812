"""The replica that should begin to answer a prompt first, counted in tokens. Pure; chance is an argument."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from serving.routing.power_of_two import DEFAULT_WEIGHT


class TokenCandidate(Protocol):
    """What the choice looks at. `outstanding_tokens` are those that it was given and that are not computed yet."""

    @property
    def outstanding_tokens(self) -> float: ...

    @property
    def weight(self) -> int: ...


C = TypeVar("C", bound=TokenCandidate)


def waiting_tokens(candidate: TokenCandidate) -> float:
    """What must be computed before anything new, in tokens of a replica of the usual weight."""
    return candidate.outstanding_tokens * DEFAULT_WEIGHT / max(candidate.weight, 1)


def not_overloaded(candidates: Iterable[C], overload_tokens: float) -> list[C]:
    """Those with at most so many tokens more than the least busy one, which is always among them."""
    waiting = [(waiting_tokens(candidate), candidate) for candidate in candidates]
    most = min((tokens for tokens, _ in waiting), default=0.0) + overload_tokens
    return [candidate for tokens, candidate in waiting if tokens <= most]


def least_tokens(
    candidates: Iterable[C],
    chance: Callable[[], float],
    *,
    prompt_tokens: float,
    known: Callable[[C], float],
    held: Callable[[C], float] = lambda _: 0.0,
) -> C | None:
    """The one with the least to compute until it answers: what waits there, and what it does not know of the prompt.

    `known` says how many of the prompt's tokens a candidate has computed before. Of equal ones the one whose cache
    holds least (`held`), so that the prompt drives little out; then by chance, which answers numbers from 0 up to, not
    including, 1. None when there is no candidate.
    """
    best: C | None = None
    least = (0.0, 0.0)
    ties = 1
    for candidate in candidates:
        own = max(0.0, prompt_tokens - known(candidate)) * DEFAULT_WEIGHT / max(candidate.weight, 1)
        cost = waiting_tokens(candidate) + own, held(candidate)
        if best is None or cost < least:
            best, least, ties = candidate, cost, 1
        elif cost == least:
            ties += 1
            if chance() * ties < 1.0:  # each of them with the same chance, without a list
                best = candidate
    return best
