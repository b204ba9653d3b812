"""The queue of one deployment."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from heapq import heapify, heappop, heappush
from itertools import chain
from types import MappingProxyType
from typing import Final

from serving.broker.queue.items import QueueSettings, Waiting
from serving.broker.queue.lane import Lane
from serving.broker.sketch import Quantiles
from serving.errors import AlreadyExists

_MEDIAN_AFTER: Final = 5  # predictions; before that nothing is long


class WaitingQueue:
    """Items in, the next one out. Each operation takes logarithmic time, also with a million items.

    Rules, the first that decides counts: shares of long and short items; the class, with ageing; short before long
    ones, unless those were submitted `ageing_s` earlier; fairness between tenants; deadline; order of submission.
    """

    def __init__(self, settings: QueueSettings) -> None:
        self._settings = settings
        self._queued: dict[int, Waiting] = {}
        self._short = Lane(settings, self._queued)
        self._long = Lane(settings, self._queued)
        self._long_numbers: set[int] = set()  # of those that wait
        self._taken: dict[int, Lane] = {}
        self._trials: set[int] = set()  # of those that wait
        self._expired: dict[int, Waiting] = {}  # out of their lanes, until `expire` hands them out
        self._expected = Quantiles()
        self._submitted = _Lowest()
        self._tenants: Counter[str] = Counter()
        self._bytes = 0
        self._now = -math.inf  # as last given: a clock may be set back
        self._long_last = False  # of those taken
        self._short_came = -math.inf  # the latest one

    def __len__(self) -> int:
        """Items that wait; expired ones count until `expire` has handed them out."""
        return len(self._queued) + len(self._expired)

    @property
    def waiting_bytes(self) -> int:
        return self._bytes

    @property
    def running(self) -> int:
        """Items that were taken and not released."""
        return len(self._taken)

    def oldest(self, now: float) -> float:
        """How long the oldest item has waited since its submission, in seconds; 0 when nothing waits."""
        return max(now - self._submitted.lowest(now), 0.0)

    def tenants(self) -> Mapping[str, int]:
        """How many items of each tenant wait; a view, tenants without any are not in it."""
        return MappingProxyType(self._tenants)

    def add(self, item: Waiting, now: float, *, trial: bool = False) -> None:
        """Also for one that goes back to the queue: it keeps its `submitted`. Raises `InvalidArgument`, and
        `AlreadyExists` for an item that waits, or was taken and not released.

        `trial`: unless it is taken, it is removed at once and added later; the median knows it from then on.
        """
        item.check()
        if item.number in self._queued or item.number in self._expired or item.number in self._taken:
            raise AlreadyExists(f"item {item.number} is in the queue, or was taken from it and not released")
        self._go_on(now)
        long = self._is_long(item)
        if trial:
            self._trials.add(item.number)
        else:
            self._expected.add(item.expected_s)
        if long:
            self._long_numbers.add(item.number)
        else:
            self._short_came = self._now
        (self._long if long else self._short).add(item, self._now)
        self._tenants[item.tenant] += 1
        self._bytes += item.size_bytes
        self._submitted.add(item.submitted)

    def remove(self, number: int) -> Waiting | None:
        """Takes out an item that waits. None: it does not."""
        item = self._queued.get(number)
        if item is not None:
            self._lane(number).remove(item, self._now)
        else:
            item = self._expired.pop(number, None)
        if item is not None:
            self._forget(item)
        return item

    @property
    def took_long(self) -> bool:
        """The item that was taken last is a long one."""
        return self._long_last

    def take(self, now: float, places: int, ahead: int = 0) -> Waiting | None:
        """The next item; it counts as running until `release`. None when nothing waits that may go (expired items
        and, where places are kept, long ones may not), or as many run as there are `places`: running ones and unused
        credits of all replicas, without the `ahead` in which items wait in replicas for the ones before them."""
        self._go_on(now)
        self._set_aside()
        lane = self._next_lane(places, ahead)
        if lane is None:
            return None
        item = lane.take(self._now)
        if item.number in self._trials:
            self._expected.add(item.expected_s)
        self._forget(item)
        lane.running += 1
        self._long_last = lane is self._long
        self._taken[item.number] = lane
        return item

    def release(self, number: int) -> None:
        """A taken item has ended, or will be added again. Harmless for one that was not taken from this queue."""
        lane = self._taken.pop(number, None)
        if lane is not None:
            lane.running -= 1

    def expire(self, now: float) -> list[Waiting]:
        """Takes out those whose deadline has passed, the earliest first; they come out nowhere else but here."""
        self._go_on(now)
        self._set_aside()
        found = sorted(self._expired.values())
        for item in found:
            del self._expired[item.number]
            self._forget(item)
        return found

    def next_deadline(self) -> float:
        """When `expire` will have something to hand out, in unix seconds; math.inf: no item has a deadline."""
        set_aside = min((item.deadline for item in self._expired.values()), default=math.inf)
        return min(set_aside, self._short.next_deadline(), self._long.next_deadline())

    def _go_on(self, now: float) -> None:
        self._now = now
        self._short.rise(self._now)
        self._long.rise(self._now)

    def _is_long(self, item: Waiting) -> bool:
        known = self._expected.count >= _MEDIAN_AFTER
        return known and item.expected_s > self._settings.long_factor * self._expected.median()

    def _lane(self, number: int) -> Lane:
        return self._long if number in self._long_numbers else self._short

    def _set_aside(self) -> None:
        for lane in (self._short, self._long):
            for item in lane.expire(self._now):
                self._expired[item.number] = item

    def _forget(self, item: Waiting) -> None:
        """Of the counts of those that wait."""
        self._long_numbers.discard(item.number)
        self._trials.discard(item.number)
        self._bytes -= item.size_bytes
        if self._submitted.remove(item.submitted):
            waiting = chain(self._queued.values(), self._expired.values())
            self._submitted = _Lowest(item.submitted for item in waiting)
        self._tenants[item.tenant] -= 1
        if not self._tenants[item.tenant]:
            del self._tenants[item.tenant]

    def _next_lane(self, places: int, ahead: int) -> Lane | None:
        short, long = self._short, self._long
        if len(self._taken) >= places + ahead or not self._queued:
            return None
        if not short.count:
            return None if self._are_kept(places) else long
        if not long.count:
            return short
        if long.running >= places - self._reserve(self._settings.short_share, places):
            return short
        # Of those ahead, too: short ones may be in all of them.
        if short.running >= places + ahead - self._reserve(self._settings.long_share, places + ahead):
            return long
        level = max(short.level(), long.level())
        if short.level() != long.level():
            return short if short.level() == level else long
        # Of all of them, not of the one whose turn it is: that may always be a new one.
        earlier = long.oldest(level) + self._settings.ageing_s <= short.first(level).submitted
        # By turns, as short ones may come anew for ever beside long ones that grow older.
        return long if earlier and not self._long_last else short

    def _are_kept(self, places: int) -> bool:
        """The places that are left, for short ones."""
        kept = int(self._settings.kept_share * places)
        coming = self._now - self._short_came < self._settings.ageing_s
        return self._long.running >= places - kept and coming

    @staticmethod
    def _reserve(share: float, places: int) -> int:
        return max(int(share * places), 1) if share > 0 and places > 1 else 0


class _Lowest:
    """The lowest of numbers that come and go."""

    __slots__ = ("_gone", "_there")

    def __init__(self, numbers: Iterable[float] = ()) -> None:
        self._there = list(numbers)
        self._gone: list[float] = []  # of those in `_there`
        heapify(self._there)

    def add(self, number: float) -> None:
        heappush(self._there, number)

    def remove(self, number: float) -> bool:
        """One that was added. True when most of what is kept is gone: make another one of those that are left."""
        heappush(self._gone, number)
        while self._gone and self._gone[0] == self._there[0]:
            heappop(self._gone)
            heappop(self._there)
        return 2 * len(self._gone) > len(self._there)

    def lowest(self, default: float) -> float:
        """May be asked by any thread."""
        there = self._there[:1]
        return there[0] if there else default
