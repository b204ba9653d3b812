"""Lookups of an event loop: on threads, and one generation for equal questions at the same time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from serving.cache.scope import Asked, Scope
from serving.cache.semantic_cache import Hit, Miss, SemanticCache
from serving.cache.single_flight import LeaderGone, SingleFlight, Turn
from serving.cache.store import Entry
from serving.errors import Unavailable

T = TypeVar("T")
_USAGE: Final = b'"usage":{'  # in compact JSON: within a text its quotes would be escaped
_THREADS: Final = 2  # the embedder computes one text at a time; the other looks into the exact tier meanwhile


@dataclass(frozen=True, slots=True)
class Wanted:
    """What may answer a request. `fresh`: nothing that is stored; its new answer is kept. `stored_only`: nothing else.

    `max_age_s` bounds the age of a stored answer. `usage`: one that does not say how many tokens it took is of no use.
    """

    fresh: bool = False
    stored_only: bool = False
    max_age_s: float | None = None
    usage: bool = False


class Lead:
    """The turn to generate. Ends by `settle` or `give_up`, whichever comes first."""

    def __init__(self, turns: Turns, miss: Miss, turn: Turn[Hit | bool] | None) -> None:
        self._turns = turns
        self._turn = turn
        self.miss = miss

    async def settle(self, answer: Mapping[str, Any], tags: Collection[str] = ()) -> str:
        """Keeps the generated `chat.completion`. Answers why not; empty when it is kept, and then followers have it."""
        try:
            reason = await self._turns.run(lambda: self._turns.cache.put(self.miss, answer, tags))
        except BaseException:
            self.give_up()
            raise
        if self._turn is not None:
            self._turn.share(None if reason else True)
        return reason

    def refuse(self, reason: str) -> str:
        """There is nothing that others may have, for this reason: followers generate their own. Answers the reason."""
        self._turns.cache.not_kept(reason)
        if self._turn is not None:
            self._turn.share(None)
        return reason

    def give_up(self) -> None:
        """Nothing was generated: the next one leads."""
        if self._turn is not None:
            self._turn.leave()


class Follow:
    """Somebody generates the answer to the same question."""

    def __init__(self, turns: Turns, turn: Turn[Hit | bool]) -> None:
        self._turns = turns
        self._turn = turn

    async def ended(self) -> bool:
        """Returns when they have. True: ask again, False: the answer is not shared, so generate your own."""
        try:
            shared = await self._turn.follow()
        except LeaderGone:
            return True
        if shared is None:
            return False
        self._turns.cache.counters.add("followed")
        return True


class Turns:
    """Belongs to one event loop, but for `close`. The cache stays its owner's."""

    def __init__(self, cache: SemanticCache, clock: Callable[[], float] = time.time) -> None:
        self.cache = cache
        self._clock = clock
        self._flights: SingleFlight[Hit | bool] = SingleFlight()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="semantic-cache")
        self._closed = False

    @property
    def generating(self) -> int:
        """Questions whose answers are looked for, or generated."""
        return len(self._flights)

    async def enter(self, asked: Asked, wanted: Wanted | None = None) -> Hit | Miss | Lead | Follow:
        """Whether the answer is there (`Hit`), and if not who makes it: the caller, and gives it back (`Lead`); the
        caller, for itself (`Miss`); or somebody who does so already (`Follow`)."""
        wanted = wanted or Wanted()
        scope = self.cache.scope(asked)
        if isinstance(scope, str):
            return self.cache.bypass(scope)
        if not wanted.fresh:
            quick = self.cache.hit_at_once(scope, lambda entry: self._fits(entry, wanted))
            if quick is not None:  # a thread would have cost more than the lookup
                return quick
        if wanted.stored_only:
            found = await self.run(lambda: self.cache.find(scope))
            return found if isinstance(found, Hit) and self._fits(found.entry, wanted) else Miss("not stored")
        if wanted.fresh:
            return self._alone(scope)
        while True:
            # With the moment, so that nobody who asks after an invalidation follows a generation from before it.
            turn = self._flights.enter(scope.key + self.cache.moment.to_bytes(8, "big"))
            came = await (self._led(turn, scope) if turn.leads else self._followed(turn))
            if came is None:
                continue
            return came if not isinstance(came, Hit) or self._fits(came.entry, wanted) else self._alone(scope)

    async def _led(self, turn: Turn[Hit | bool], scope: Scope) -> Hit | Lead:
        try:
            found = await self.run(lambda: self.cache.find(scope))
        except BaseException:
            turn.leave()
            raise
        if isinstance(found, Hit):
            turn.share(found)
            return found
        turn.generates()
        return Lead(self, found, turn)

    async def _followed(self, turn: Turn[Hit | bool]) -> Hit | Follow | None:
        """None: take another turn."""
        if not await turn.ended_by_lookup():
            return Follow(self, turn)
        try:
            shared = await turn.follow()
        except LeaderGone:
            return None
        return shared if isinstance(shared, Hit) else None

    def _alone(self, scope: Scope) -> Lead:
        """Generates what nobody waits for, and what replaces the stored answer."""
        return Lead(self, Miss("not asked for", scope, moment=self.cache.moment, compared=False), None)

    def _fits(self, entry: Entry, wanted: Wanted) -> bool:
        if wanted.max_age_s is not None and self._clock() - entry.created > wanted.max_age_s:
            return False
        return not wanted.usage or _USAGE in entry.answer

    async def run(self, work: Callable[[], T]) -> T:
        """On one of the cache's threads. Raises what the work raises, and `Unavailable` after `close`."""
        if self._closed:
            raise Unavailable("the cache is closed")
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        """Waits for what runs."""
        self._closed = True
        self._threads.shutdown()
