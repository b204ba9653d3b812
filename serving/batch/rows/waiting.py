"""Rows that wait for an endpoint, and which of them goes next to whom. Pure."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

R = TypeVar("R")  # what waits
E = TypeVar("E", bound=Hashable)  # an endpoint


@dataclass(slots=True)
class Row(Generic[R, E]):
    """`tried` are endpoints that failed it: others go first."""

    what: R
    expected: float
    prefix: bytes = b""
    tried: set[E] = field(default_factory=set)


@dataclass(slots=True)
class _Group(Generic[R, E]):
    """Rows that begin alike, the longest one of the oldest tranche first. `home` computes them."""

    prefix: bytes
    rows: list[tuple[int, float, int, Row[R, E]]] = field(default_factory=list)
    home: E | None = None


class Waiting(Generic[R, E]):
    """The longest row first, among `tranche` rows that came together: so no short one waits for ever.

    Rows of one prefix go one after the other to the endpoint that had the first of them, as long as it takes them; who
    has nothing of its own helps where most is left.
    """

    def __init__(self, *, tranche: int = 4096, homes: int = 4096) -> None:
        """`homes`: of how many prefixes it is remembered who has them, while no row of them waits."""
        self._tranche = tranche
        self._homes_kept = homes
        self._came = 0
        self._size = 0
        self._groups: dict[bytes, _Group[R, E]] = {}
        self._heads: list[tuple[int, float, int, bytes]] = []  # of groups without a home; some are out of date
        self._of: dict[E, OrderedDict[bytes, None]] = {}  # groups by their home
        self._homes: OrderedDict[bytes, E] = OrderedDict()
        self._again: list[Row[R, E]] = []

    def __len__(self) -> int:
        return self._size + len(self._again)

    def add(self, row: Row[R, E]) -> None:
        number, self._came = self._came, self._came + 1
        entry = (number // self._tranche, -row.expected, number, row)
        group = self._groups.get(row.prefix)
        if group is None:
            group = self._groups[row.prefix] = _Group(row.prefix)
            if row.prefix and (home := self._homes.get(row.prefix)) is not None:
                self._settle(group, home)
        heapq.heappush(group.rows, entry)
        self._size += 1
        if group.home is None and group.rows[0] is entry:
            heapq.heappush(self._heads, (*entry[:3], row.prefix))

    def again(self, row: Row[R, E]) -> None:
        """One that failed: it goes before all others, elsewhere."""
        self._again.append(row)

    def take(self, endpoint: E, *, alone: bool = False) -> R | None:
        """The next row for that endpoint. `alone`: there is no other one, so that it gets what it failed, too."""
        for index, row in enumerate(self._again):
            if alone or endpoint not in row.tried:
                return self._again.pop(index).what
        group = self._next(endpoint)
        if group is None:
            return None
        return self._pop(group, endpoint).what

    def left(self, endpoint: E) -> None:
        """It takes no more rows: its groups are anybody's."""
        for prefix in self._of.pop(endpoint, ()):
            group = self._groups[prefix]
            group.home = None
            heapq.heappush(self._heads, (*group.rows[0][:3], prefix))
        for prefix in [prefix for prefix, home in self._homes.items() if home == endpoint]:
            del self._homes[prefix]

    def forgive(self, endpoints: set[E]) -> None:
        """Rows that failed at all of these, which are those that there are, may go to any again."""
        for row in self._again:
            if row.tried >= endpoints:
                row.tried.clear()

    def drain(self) -> Iterator[R]:
        """Takes out all rows."""
        again, self._again = self._again, []
        groups, self._groups = self._groups, {}
        self._heads, self._size = [], 0
        self._of.clear()
        for row in again:
            yield row.what
        for group in groups.values():
            for entry in group.rows:
                yield entry[3].what

    # ------------------------------------------------------------------------------------------------ groups

    def _next(self, endpoint: E) -> _Group[R, E] | None:
        free = self._free()
        own = self._own(endpoint)
        if own is not None and (free is None or own.rows[0][0] <= free.rows[0][0]):
            return own
        if free is not None:
            if free.prefix:
                self._settle(free, endpoint)
            return free
        settled = (self._groups[prefix] for prefixes in self._of.values() for prefix in prefixes)
        return max(settled, key=lambda group: len(group.rows), default=None)

    def _free(self) -> _Group[R, E] | None:
        while self._heads:
            _, _, number, prefix = self._heads[0]
            group = self._groups.get(prefix)
            if group is not None and group.home is None and group.rows[0][2] == number:
                return group
            heapq.heappop(self._heads)
        return None

    def _own(self, endpoint: E) -> _Group[R, E] | None:
        prefixes = self._of.get(endpoint)
        return self._groups[next(iter(prefixes))] if prefixes else None

    def _settle(self, group: _Group[R, E], endpoint: E) -> None:
        group.home = endpoint
        self._of.setdefault(endpoint, OrderedDict())[group.prefix] = None

    def _pop(self, group: _Group[R, E], endpoint: E) -> Row[R, E]:
        row = heapq.heappop(group.rows)[3]
        self._size -= 1
        if group.prefix:
            self._homes[group.prefix] = group.home if group.home is not None else endpoint
            self._homes.move_to_end(group.prefix)
            if len(self._homes) > self._homes_kept:
                self._homes.popitem(last=False)
        if not group.rows:
            del self._groups[group.prefix]
            if group.home is not None:
                of_home = self._of[group.home]
                del of_home[group.prefix]
                if not of_home:
                    del self._of[group.home]
        elif group.home is None:
            heapq.heappush(self._heads, (*group.rows[0][:3], group.prefix))
        return row
