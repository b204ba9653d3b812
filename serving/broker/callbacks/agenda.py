"""Which callback is sent next: the one that is due for longest, of receivers and tenants that have room. Pure."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeAlias, TypeVar


class Entry(Protocol):
    """`gone`: it is not to be sent any more. `at`: unix seconds."""

    tenant: str
    receiver: str
    at: float
    gone: bool


E = TypeVar("E", bound=Entry)
_Name: TypeAlias = tuple[str, str]  # of a line: tenant and receiver


@dataclass(slots=True)
class _Bounded:
    """A receiver, or a tenant. Lines that met it full wait here, each until a place of it is free."""

    places: int
    active: int = 0
    lines: list[tuple[float, int, _Name]] = field(default_factory=list)

    @property
    def full(self) -> bool:
        return self.active >= self.places


@dataclass(slots=True)
class _Line(Generic[E]):
    """What one tenant has for one receiver."""

    waiting: list[tuple[float, int, E]] = field(default_factory=list)
    offered: float | None = None  # the time that it stands with among all lines
    blocked: bool = False  # it waits for a place of its receiver or tenant

    def head(self) -> float | None:
        while self.waiting and (self.waiting[0][2].gone or self.waiting[0][2].at != self.waiting[0][0]):
            heapq.heappop(self.waiting)
        return self.waiting[0][0] if self.waiting else None


class Agenda(Generic[E]):
    """A slow receiver holds `per_receiver` places at most and a tenant `per_tenant`, of `places` in all.

    Each operation costs a logarithm, for as many lines at most as receivers and tenants can be full. An entry whose
    `at` has changed is added again; one that is `gone` need not be taken out.
    """

    def __init__(self, places: int, per_receiver: int, per_tenant: int) -> None:
        self._places = places
        self._per_receiver = per_receiver
        self._per_tenant = per_tenant
        self._receivers: dict[str, _Bounded] = {}  # that have calls, or lines that wait for them
        self._tenants: dict[str, _Bounded] = {}
        self._lines: dict[_Name, _Line[E]] = {}
        self._next: list[tuple[float, int, _Name]] = []
        self._count = itertools.count()
        self.active = 0

    def add(self, entry: E) -> None:
        name = (entry.tenant, entry.receiver)
        line = self._lines.setdefault(name, _Line())
        heapq.heappush(line.waiting, (entry.at, next(self._count), entry))
        self._offer(name, line)

    def take(self, now: float) -> E | None:
        """One whose time has come; to be given to `release` when its call has ended. None: nothing can be sent now."""
        while self._next and self._next[0][0] <= now and self.active < self._places:
            at, _, name = heapq.heappop(self._next)
            line = self._lines.get(name)
            if line is None or line.offered != at:
                continue
            line.offered = None
            if line.head() != at:  # it stands elsewhere by now, and others may have its place
                self._offer(name, line)
                self._unblock(name)
            elif (full := next((one for one in self._bounds(name) if one.full), None)) is not None:
                line.blocked = True
                heapq.heappush(full.lines, (at, next(self._count), name))
                self._unblock(name)
            else:
                return self._taken(name, line)
        return None

    def release(self, entry: E) -> None:
        name = (entry.tenant, entry.receiver)
        self.active -= 1
        for bounded in self._bounds(name):
            bounded.active -= 1
        self._unblock(name)
        for among, key in ((self._tenants, entry.tenant), (self._receivers, entry.receiver)):
            if among[key].active == 0 and not among[key].lines:
                del among[key]

    def drop_gone(self) -> None:
        """Lets go of entries that are `gone`, which stay until their time otherwise. Costs as much as there is."""
        empty: list[_Name] = []
        for name, line in self._lines.items():
            line.waiting = [one for one in line.waiting if not one[2].gone]
            heapq.heapify(line.waiting)
            if not line.waiting and not line.blocked:
                empty.append(name)
        for name in empty:
            del self._lines[name]
        self._next = [one for one in self._next if one[2] in self._lines]
        heapq.heapify(self._next)
        for name in empty:  # it may have been its turn, and others waited for it
            self._unblock(name)

    def next_at(self) -> float | None:
        """When `take` may find one; None: not before something is added or released."""
        return self._next[0][0] if self._next and self.active < self._places else None

    def _taken(self, name: _Name, line: _Line[E]) -> E:
        entry = heapq.heappop(line.waiting)[2]
        tenant, receiver = name
        self._tenants.setdefault(tenant, _Bounded(self._per_tenant)).active += 1
        self._receivers.setdefault(receiver, _Bounded(self._per_receiver)).active += 1
        self.active += 1
        self._offer(name, line)
        return entry

    def _bounds(self, name: _Name) -> Iterator[_Bounded]:
        tenant, receiver = name
        for found in (self._tenants.get(tenant), self._receivers.get(receiver)):
            if found is not None:
                yield found

    def _unblock(self, name: _Name) -> None:
        """The next line that waits for the tenant or the receiver of this one, where that has a place."""
        for bounded in self._bounds(name):
            while bounded.lines and not bounded.full:
                blocked_at, _, waiting = heapq.heappop(bounded.lines)
                line = self._lines[waiting]
                line.blocked = False
                head = line.head()
                self._offer(waiting, line)
                if head is not None and head <= blocked_at:
                    break  # it takes the place, or unblocks the next one

    def _offer(self, name: _Name, line: _Line[E]) -> None:
        head = line.head()
        if line.blocked:
            return
        if head is None:
            del self._lines[name]
        elif line.offered is None or head < line.offered:
            line.offered = head
            heapq.heappush(self._next, (head, next(self._count), name))
