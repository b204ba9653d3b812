"""Which key runs next. Pure: time is an argument.

A key is in the queue at most once, and never runs twice at a time: what is woken while it runs is run once more after.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class KeyedQueue(Generic[K]):
    """First come, first served, with timers."""

    def __init__(self) -> None:
        self._ready: deque[K] = deque()
        self._queued: set[K] = set()
        self._running: set[K] = set()
        self._dirty: set[K] = set()  # woken while they ran
        self._timers: list[tuple[float, int, K]] = []
        self._timer_of: dict[K, tuple[float, int]] = {}
        self._numbers = itertools.count()

    def wake(self, key: K) -> None:
        """The key is to run as soon as possible. A timer that it has is dropped: the run decides anew."""
        self._timer_of.pop(key, None)
        if key in self._running:
            self._dirty.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._ready.append(key)

    def wake_at(self, key: K, at_s: float) -> None:
        """The key is to run at a time. Replaces a timer that it has; does nothing when it is to run before anyway."""
        if key in self._queued or key in self._dirty:
            return
        number = next(self._numbers)
        self._timer_of[key] = (at_s, number)
        heapq.heappush(self._timers, (at_s, number, key))
        if len(self._timers) > 64 + 2 * len(self._timer_of):
            self._timers = [(at, number, key) for key, (at, number) in self._timer_of.items()]
            heapq.heapify(self._timers)

    def take(self, now_s: float) -> K | None:
        """The next key to run, which counts as running from here on; None when there is none now."""
        self._fire(now_s)
        if not self._ready:
            return None
        key = self._ready.popleft()
        self._queued.discard(key)
        self._running.add(key)
        return key

    def finished(self, key: K) -> None:
        """The run has ended. To be called before the timer that it asked for is set."""
        self._running.discard(key)
        if key in self._dirty:
            self._dirty.discard(key)
            self._queued.add(key)
            self._ready.append(key)

    def next_timer_s(self) -> float | None:
        """When the next timer is due; None when there is none."""
        while self._timers and self._timer_of.get(self._timers[0][2]) != self._timers[0][:2]:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def _fire(self, now_s: float) -> None:
        while (due := self.next_timer_s()) is not None and due <= now_s:
            self.wake(heapq.heappop(self._timers)[2])

    @property
    def waiting(self) -> int:
        """Keys that could run now."""
        return len(self._ready) + len(self._dirty)

    @property
    def delayed(self) -> int:
        """Keys that wait for a time."""
        return len(self._timer_of)

    @property
    def running(self) -> int:
        return len(self._running)
