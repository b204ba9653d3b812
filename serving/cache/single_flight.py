"""Equal questions at the same time cause one generation."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Turn(Generic[T]):
    """One request's part. `leads` generates and calls `share` with what came out; all others `await follow()`.

    A context manager: whoever leads and leaves without `share` has failed, or was cancelled.
    """

    def __init__(self, flights: SingleFlight[T], key: bytes, answer: asyncio.Future[T | None], leads: bool) -> None:
        self._flights = flights
        self._key = key
        self._answer = answer
        self.leads = leads

    def share(self, answer: T | None) -> None:
        """Gives all followers the answer; None (one that must not be shared) lets each generate its own."""
        self._flights.land(self._key, self._answer)
        if not self._answer.done():
            self._answer.set_result(answer)

    async def follow(self) -> T | None:
        """The leader's answer; None: generate it yourself. Raises `LeaderCancelled`: take another turn."""
        try:
            return await asyncio.shield(self._answer)
        except asyncio.CancelledError:
            if self._answer.cancelled():
                raise LeaderCancelled from None
            raise

    def __enter__(self) -> Turn[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.leads and not self._answer.done():
            self._flights.land(self._key, self._answer)
            if kind is not None and issubclass(kind, asyncio.CancelledError | GeneratorExit):
                self._answer.cancel()
            else:
                self._answer.set_result(None)


class LeaderCancelled(Exception):  # an outcome, not an error: it never leaves the cache
    """The leader's client went away; the generation says nothing about the question."""


class SingleFlight(Generic[T]):
    """Belongs to one event loop. There is at most one leader for a key."""

    def __init__(self) -> None:
        self._flights: dict[bytes, asyncio.Future[T | None]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def enter(self, key: bytes) -> Turn[T]:
        answer = self._flights.get(key)
        if answer is not None:
            return Turn(self, key, answer, leads=False)
        answer = asyncio.get_running_loop().create_future()
        self._flights[key] = answer
        return Turn(self, key, answer, leads=True)

    def land(self, key: bytes, answer: asyncio.Future[T | None]) -> None:
        """From now on the key is free."""
        if self._flights.get(key) is answer:
            del self._flights[key]
