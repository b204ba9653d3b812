"""What is remembered so that it need not be read from the disk, and who waits for items."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Final

from serving.broker.items import Item

_FRESH_BYTES: Final = 64 << 20
_ENDED_BYTES: Final = 32 << 20
_LARGE_BYTES: Final = 1 << 20
_ITEM_BYTES: Final = 1500  # of memory, besides the body


class Fresh:
    """Requests that were submitted a short time ago: most start before they would be read again.

    When it is full the ones that are in it stay, as they are the next to start.
    """

    def __init__(self) -> None:
        self._items: dict[int, tuple[Item, bytes]] = {}
        self._bytes = 0

    def add(self, item: Item, body: bytes) -> None:
        size = len(body) + _ITEM_BYTES
        if len(body) <= _LARGE_BYTES and self._bytes + size <= _FRESH_BYTES:
            self._items[item.number] = (item, body)
            self._bytes += size

    def pop(self, number: int) -> tuple[Item, bytes] | None:
        found = self._items.pop(number, None)
        if found is not None:
            self._bytes -= len(found[1]) + _ITEM_BYTES
        return found

    def __contains__(self, number: int) -> bool:
        return number in self._items


class Ended:
    """Items that ended a short time ago, with their results: most are fetched at once."""

    def __init__(self) -> None:
        self._items: dict[int, tuple[Item, bytes | None]] = {}
        self._bytes = 0

    def add(self, item: Item, result: bytes | None) -> None:
        size = len(result or b"") + _ITEM_BYTES
        if size > _LARGE_BYTES:
            return
        self._items[item.number] = (item, result)
        self._bytes += size
        while self._bytes > _ENDED_BYTES:
            self.forget(next(iter(self._items)))

    def get(self, number: int) -> tuple[Item, bytes | None] | None:
        return self._items.get(number)

    def forget(self, number: int) -> None:
        found = self._items.pop(number, None)
        if found is not None:
            self._bytes -= len(found[1] or b"") + _ITEM_BYTES


class Watchers:
    """Those who wait for an item to end, or to change in any way. `None` tells them that the shard closes."""

    def __init__(self) -> None:
        self._end: defaultdict[int, set[asyncio.Future[bool]]] = defaultdict(set)
        self._change: defaultdict[int, set[asyncio.Future[bool]]] = defaultdict(set)
        self._closed = False

    def end_of(self, number: int) -> asyncio.Future[bool]:
        """Resolves to True at its end, to False when nobody here will know of it. Cancel it when it is not needed."""
        return self._watch(self._end, number)

    def change_of(self, number: int) -> asyncio.Future[bool]:
        return self._watch(self._change, number)

    def watched(self, number: int) -> bool:
        return number in self._end or number in self._change

    def ended(self, number: int) -> None:
        _wake(self._end.pop(number, ()), True)
        self.changed(number)

    def changed(self, number: int) -> None:
        if self._change:
            _wake(self._change.pop(number, ()), True)

    def close(self) -> None:
        self._closed = True
        for watched in (self._end, self._change):
            for futures in list(watched.values()):
                _wake(futures, False)
            watched.clear()

    def _watch(self, watched: defaultdict[int, set[asyncio.Future[bool]]], number: int) -> asyncio.Future[bool]:
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if self._closed:
            future.set_result(False)
            return future
        watched[number].add(future)

        def leave(gone: asyncio.Future[bool]) -> None:
            futures = watched.get(number)
            if futures is not None:
                futures.discard(gone)
                if not futures:
                    del watched[number]

        future.add_done_callback(leave)
        return future


def _wake(futures: set[asyncio.Future[bool]] | tuple[()], told: bool) -> None:
    for future in list(futures):
        if not future.done():
            future.set_result(told)
