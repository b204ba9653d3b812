"""Replicas of one model among which one is chosen: each way to choose looks the same from outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

from serving.gateway.sessions import Sessions
from serving.routing import PowerOfTwo
from serving.routing.least_tokens import least_tokens, not_overloaded
from serving.routing.llm_routing import ROUND_ROBIN, LlmRouting
from serving.routing.policy import POWER_OF_TWO

if TYPE_CHECKING:
    from serving.gateway.upstreams import Upstream

Allowed: TypeAlias = "Callable[[Upstream], bool]"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request as the choice sees it.

    `known`: tokens of its prompt by the number of the replica that should have computed them before. `held`: how
    much a replica's cache should hold, where that matters. `session` is a digest, empty for none.
    """

    prompt_tokens: float = 0.0
    known: Mapping[int, float] = field(default_factory=dict)
    held: Callable[[int], float] = lambda _: 0.0
    session: bytes = b""


class Pool(Protocol):
    """`pick` answers None when no replica is there that is `allowed` (None: all are)."""

    def pick(self, wanted: Wanted, now: float, allowed: Allowed | None = None) -> Upstream | None: ...


def make_pool(
    routing: LlmRouting, replicas: Sequence[Upstream], chance: Callable[[], float], sessions: Sessions
) -> Pool:
    if routing.choice == POWER_OF_TWO:
        return _TwoPool(replicas, chance)
    if routing.choice == ROUND_ROBIN:
        return _RoundPool(replicas)
    return _TokenPool(replicas, chance, sessions, routing.overload_tokens)


class _TwoPool:
    """The less busy one of two, by requests and their latencies."""

    def __init__(self, replicas: Sequence[Upstream], chance: Callable[[], float]) -> None:
        self._choice = PowerOfTwo(replicas, chance)

    def pick(self, _wanted: Wanted, now: float, allowed: Allowed | None = None) -> Upstream | None:
        return self._choice.pick(now) if allowed is None else self._choice.pick_among(allowed, now)


class _RoundPool:
    """One after the other."""

    def __init__(self, replicas: Sequence[Upstream]) -> None:
        self._replicas = tuple(replicas)
        self._next = 0

    def pick(self, _wanted: Wanted, _now: float, allowed: Allowed | None = None) -> Upstream | None:
        for _ in self._replicas:
            replica = self._replicas[self._next % len(self._replicas)]
            self._next += 1
            if allowed is None or allowed(replica):
                return replica
        return None


class _TokenPool:
    """The one with the least to compute until it answers; that of the request's session as long as it keeps up."""

    def __init__(
        self, replicas: Sequence[Upstream], chance: Callable[[], float], sessions: Sessions, overload_tokens: float
    ) -> None:
        self._replicas = tuple(replicas)
        self._chance = chance
        self._sessions = sessions
        self._overload_tokens = overload_tokens

    def pick(self, wanted: Wanted, _now: float, allowed: Allowed | None = None) -> Upstream | None:
        among = self._replicas if allowed is None else [one for one in self._replicas if allowed(one)]
        if not among:
            return None
        if len(among) == 1:
            return among[0]
        fit = not_overloaded(among, self._overload_tokens)
        if wanted.session:
            found = self._of_session(wanted.session, fit)
            if found is not None:
                return found
        known = wanted.known
        return least_tokens(
            fit,
            self._chance,
            prompt_tokens=wanted.prompt_tokens,
            known=lambda one: known.get(one.number, 0.0) * one.trust,
            held=lambda one: wanted.held(one.number),
        )

    def _of_session(self, session: bytes, fit: Sequence[Upstream]) -> Upstream | None:
        """None when its replica is away or has too much to do: then the session moves to where it is answered first."""
        number = self._sessions.replica(session)
        if number is None:
            return fit[Sessions.first(session, [(one.endpoint.id, one.weight) for one in fit])]
        return next((one for one in fit if one.number == number), None)
