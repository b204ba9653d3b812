"""Time as an argument: the real clock, and one that tests move by hand."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from typing import Protocol


class Clock(Protocol):
    """What a controller knows of time."""

    def now(self) -> float:
        """Unix seconds. May jump."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back. For measuring and for time-outs."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Returns after so many seconds; at once, but not before others had a turn, when there are none."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


class ManualClock:
    """Stands still until `advance`. `now` and `monotonic` start at `start_s` and move together."""

    def __init__(self, start_s: float = 1_000_000.0) -> None:
        self._time_s = start_s
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    def now(self) -> float:
        return self._time_s

    def monotonic(self) -> float:
        return self._time_s

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._time_s + seconds, next(self._numbers), future))
        await future

    @property
    def sleepers(self) -> int:
        """How many sleep now."""
        return sum(not future.done() for _, _, future in self._sleepers)

    def next_wake_s(self) -> float | None:
        """When the next sleeper wakes, on this clock; None when nobody sleeps."""
        self._drop_cancelled()
        return self._sleepers[0][0] if self._sleepers else None

    def advance(self, seconds: float) -> None:
        """Moves the time and wakes whom it passes, in order. They run when the caller awaits something."""
        self._time_s += max(0.0, seconds)
        self._drop_cancelled()
        while self._sleepers and self._sleepers[0][0] <= self._time_s:
            _, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)
            self._drop_cancelled()

    def _drop_cancelled(self) -> None:
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
