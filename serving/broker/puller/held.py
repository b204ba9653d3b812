"""What a replica holds of a broker's items: those that run, and outcomes that are not stored yet. No I/O."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from serving._proto import broker_pb2 as bpb
from serving.broker.puller.run import Returned

_UNSENT_PARTS: Final = 1 << 20  # bytes of one item; the result has all of it again


@dataclass(slots=True, eq=False)
class HeldItem:
    """One attempt at an item. It is held until the broker says that its outcome is stored, or not wanted."""

    work: bpb.Work
    arrived: float
    size: int  # bytes that it takes: of its request, then of its outcome
    limit_bytes: int  # of its result
    task: asyncio.Task[bpb.Result | Returned] | None = None
    outcome: bpb.Done | None = None
    said_at: float | None = None  # when the outcome was sent on the connection of now
    ended_at: float = 0.0
    unwanted: bool = False  # the broker has told it to stop
    _parts: list[bpb.Part] = field(default_factory=list)
    _next_part: int = 0
    _unsent: int = 0

    @property
    def key(self) -> tuple[str, int]:
        return (self.work.item, self.work.attempt)

    @property
    def journal(self) -> str:
        return journal_of(self.work.item)

    @property
    def runs(self) -> bool:
        return self.outcome is None

    def add_part(self, body: bytes) -> None:
        """To be sent. One that finds no room is left out, and its number with it."""
        part = bpb.Part(number=self._next_part, attempt=self.work.attempt, body=body)
        self._next_part += 1
        if self._unsent + len(body) <= _UNSENT_PARTS:
            self._parts.append(part)
            self._unsent += len(body)

    def take_parts(self) -> list[bpb.Part]:
        """Those that were not taken before."""
        parts, self._parts, self._unsent = self._parts, [], 0
        return parts


class HeldItems:
    """By item and attempt."""

    def __init__(self) -> None:
        self._items: dict[tuple[str, int], HeldItem] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[HeldItem]:
        return iter(tuple(self._items.values()))

    def get(self, item: str, attempt: int) -> HeldItem | None:
        return self._items.get((item, attempt))

    def add(self, held: HeldItem) -> None:
        self._items[held.key] = held

    def remove(self, held: HeldItem) -> None:
        self._items.pop(held.key, None)

    @property
    def running(self) -> int:
        return sum(held.runs for held in self._items.values())

    @property
    def size(self) -> int:
        """Bytes of requests that run and of outcomes that wait."""
        return sum(held.size for held in self._items.values())


def journal_of(item: str) -> str:
    """`<journal>.<number>` → the journal."""
    return item.rpartition(".")[0]
