"""Which callback is sent next: the one that is due for longest, of receivers that have room. Pure."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class Entry(Protocol):
    """`gone`: it is not to be sent any more. `at`: unix seconds."""

    receiver: str
    at: float
    gone: bool


E = TypeVar("E", bound=Entry)


@dataclass(slots=True)
class _Receiver(Generic[E]):
    waiting: list[tuple[float, int, E]] = field(default_factory=list)
    active: int = 0
    offered: float | None = None  # the time that it stands with among all receivers

    def head(self) -> float | None:
        while self.waiting and (self.waiting[0][2].gone or self.waiting[0][2].at != self.waiting[0][0]):
            heapq.heappop(self.waiting)
        return self.waiting[0][0] if self.waiting else None


class Agenda(Generic[E]):
    """A slow receiver holds `per_receiver` places at most, of `places` in all; each operation costs a logarithm.

    An entry whose `at` has changed is added again; one that is `gone` need not be taken out.
    """

    def __init__(self, places: int, per_receiver: int) -> None:
        self._places = places
        self._per_receiver = per_receiver
        self._receivers: dict[str, _Receiver[E]] = {}
        self._next: list[tuple[float, int, str]] = []
        self._count = itertools.count()
        self.active = 0

    def add(self, entry: E) -> None:
        receiver = self._receivers.setdefault(entry.receiver, _Receiver())
        heapq.heappush(receiver.waiting, (entry.at, next(self._count), entry))
        self._offer(entry.receiver, receiver)

    def take(self, now: float) -> E | None:
        """One whose time has come; to be given to `release` when its call has ended. None: nothing can be sent now."""
        while self._next and self._next[0][0] <= now and self.active < self._places:
            at, _, name = heapq.heappop(self._next)
            receiver = self._receivers.get(name)
            if receiver is None or receiver.offered != at:
                continue
            receiver.offered = None
            head = receiver.head()
            if head != at or receiver.active >= self._per_receiver:  # it stands elsewhere by now
                self._offer(name, receiver)
                continue
            entry = heapq.heappop(receiver.waiting)[2]
            receiver.active += 1
            self.active += 1
            self._offer(name, receiver)
            return entry
        return None

    def release(self, entry: E) -> None:
        self.active -= 1
        receiver = self._receivers[entry.receiver]
        receiver.active -= 1
        self._offer(entry.receiver, receiver)

    def next_at(self) -> float | None:
        """When `take` may find one; None: not before something is added or released."""
        return self._next[0][0] if self._next and self.active < self._places else None

    def _offer(self, name: str, receiver: _Receiver[E]) -> None:
        head = receiver.head()
        if head is None:
            if receiver.active == 0:
                del self._receivers[name]
        elif receiver.active < self._per_receiver and (receiver.offered is None or head < receiver.offered):
            receiver.offered = head
            heapq.heappush(self._next, (head, next(self._count), name))
