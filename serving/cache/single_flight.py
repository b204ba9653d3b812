"""Equal questions at the same time cause one lookup, and one generation."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


class LeaderGone(Exception):  # an outcome, not an error: it never leaves the cache
    """The leader ended without an answer, through no fault of the question: take another turn."""


@dataclass(frozen=True, slots=True)
class _Flight(Generic[T]):
    """`looked_up` is done as soon as the leader knows whether it must generate; `answer` when it has ended."""

    looked_up: asyncio.Future[None]
    answer: asyncio.Future[T | None]


class Turn(Generic[T]):
    """One request's part. A leader ends by `share` or `leave`, whichever comes first; all others `follow`."""

    def __init__(self, flights: SingleFlight[T], key: bytes, flight: _Flight[T], leads: bool) -> None:
        self._flights = flights
        self._key = key
        self._flight = flight
        self.leads = leads

    def generates(self) -> None:
        """The leader has found nothing."""
        if not self._flight.looked_up.done():
            self._flight.looked_up.set_result(None)

    def share(self, answer: T | None) -> None:
        """Gives all followers the answer; None (one that must not be shared) lets each generate its own."""
        self._land()
        if not self._flight.answer.done():
            self._flight.answer.set_result(answer)

    def leave(self) -> None:
        """Without an answer: one of the followers leads then."""
        self._land()
        self._flight.answer.cancel()

    def _land(self) -> None:
        self._flights.land(self._key, self._flight)
        self.generates()

    async def ended_by_lookup(self) -> bool:
        """Of a follower: waits until the leader has looked; False while it generates."""
        await asyncio.shield(self._flight.looked_up)
        return self._flight.answer.done()

    async def follow(self) -> T | None:
        """The leader's answer; None: generate it yourself. Raises `LeaderGone`."""
        try:
            return await asyncio.shield(self._flight.answer)
        except asyncio.CancelledError:
            if self._flight.answer.cancelled():
                raise LeaderGone from None
            raise


class SingleFlight(Generic[T]):
    """Belongs to one event loop. There is at most one leader for a key."""

    def __init__(self) -> None:
        self._flights: dict[bytes, _Flight[T]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def enter(self, key: bytes) -> Turn[T]:
        known = self._flights.get(key)
        if known is not None:
            return Turn(self, key, known, leads=False)
        loop = asyncio.get_running_loop()
        flight: _Flight[T] = _Flight(loop.create_future(), loop.create_future())
        self._flights[key] = flight
        return Turn(self, key, flight, leads=True)

    def land(self, key: bytes, flight: _Flight[T]) -> None:
        """From now on the key is free."""
        if self._flights.get(key) is flight:
            del self._flights[key]
