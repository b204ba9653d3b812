"""Answers that may serve for further rows of the same request. Pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

A = TypeVar("A")


class Memo(Generic[A]):
    """The newest ones, of at most so many bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[bytes, tuple[A, int]] = OrderedDict()

    def get(self, key: bytes) -> A | None:
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept.move_to_end(key)
        return found[0]

    def put(self, key: bytes, answer: A, size: int) -> None:
        """`size` in bytes; larger ones than all may have are not kept."""
        old = self._kept.pop(key, None)
        if old is not None:
            self._bytes -= old[1]
        if size > self._max_bytes:
            return
        self._kept[key] = (answer, size)
        self._bytes += size
        while self._bytes > self._max_bytes:
            _, (_, freed) = self._kept.popitem(last=False)
            self._bytes -= freed
