"""A replica's answer, remembered while it passes: for a semantic cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from serving._proto import records_pb2 as pb

_MAX_BYTES: Final = 16 << 20  # of one answer
_GOOD: Final = 200


class Room:
    """The bytes that all answers on their way may take together."""

    def __init__(self, max_bytes: int) -> None:
        self.left = max_bytes

    def take(self, count: int) -> bool:
        if count > self.left:
            return False
        self.left -= count
        return True

    def give_back(self, count: int) -> None:
        self.left += count


class Recorder:
    """`begin`, `add`, `end`; whatever does not come to `end`, is no good answer, or finds no room, is not `whole`.

    Belongs to one event loop. Without a room it remembers nothing.
    """

    def __init__(self, room: Room | None = None) -> None:
        self._room = room
        self._parts: list[bytes] = []
        self._size = 0
        self._takes = False
        self.whole = False
        self.media_type = ""
        self.endpoint: pb.Endpoint | None = None

    def begin(self, status: int, headers: Mapping[str, str], endpoint: pb.Endpoint) -> None:
        if self._room is None:
            return
        self._takes = status == _GOOD and "content-encoding" not in headers
        self.media_type = headers.get("content-type", "")
        self.endpoint = endpoint

    def add(self, data: bytes) -> None:
        if self._room is None or not self._takes:
            return
        if self._size + len(data) > _MAX_BYTES or not self._room.take(len(data)):
            self._takes = False
            self.forget()
            return
        self._size += len(data)
        self._parts.append(data)

    def end(self) -> None:
        self.whole = self._takes

    @property
    def data(self) -> bytes:
        return b"".join(self._parts)

    def forget(self) -> None:
        """Gives the room back. May be repeated."""
        if self._room is not None:
            self._room.give_back(self._size)
        self._parts, self._size = [], 0
