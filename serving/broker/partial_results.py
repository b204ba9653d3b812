"""Parts of a result while it is made, for whoever follows: in memory, bounded, the oldest go first. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import Final

MAX_BYTES: Final = 1 << 20
_PART_BYTES: Final = 100  # of memory, besides its body


@dataclass(frozen=True, slots=True)
class Part:
    number: int
    attempt: int
    body: bytes


class PartialResult:
    """Of one attempt."""

    def __init__(self, attempt: int) -> None:
        self.attempt = attempt
        self.next = 0  # the number of the part that comes
        self._parts: deque[Part] = deque()
        self._bytes = 0

    @property
    def first(self) -> int:
        """The oldest that is kept."""
        return self._parts[0].number if self._parts else self.next

    def add(self, number: int, body: bytes) -> bool:
        """False: it was there before, as parts are said again after a connection broke.

        One that comes after a gap begins anew: what is between was told to the broker that served the journal before.
        """
        if number < self.next:
            return False
        if number > self.next:
            self._parts.clear()
            self._bytes = 0
        self.next = number + 1
        self._parts.append(Part(number, self.attempt, body))
        self._bytes += len(body) + _PART_BYTES
        while self._bytes > MAX_BYTES and len(self._parts) > 1:
            self._bytes -= len(self._parts.popleft().body) + _PART_BYTES
        return True

    def since(self, number: int) -> list[Part]:
        """Those from `number` on that are kept."""
        skip = max(0, number - self.first)
        return list(islice(self._parts, skip, None))
