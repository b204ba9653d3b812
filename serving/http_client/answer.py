"""An answer whose head is there, and whose body comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from serving.http_client.errors import Broke, RequestFailed
from serving.http_client.headers import Headers


class Source(Protocol):
    """Where the body comes from."""

    def resume(self) -> None:
        """All that came was taken."""

    def abort(self) -> None:
        """Nobody wants the rest."""


class Answer:
    """`async for` gives the body in pieces as they come, once. Belongs to one event loop."""

    __slots__ = ("_error", "_pieces", "_source", "_waiter", "ended", "headers", "held_bytes", "status", "waits_since")

    def __init__(self, status: int, headers: Headers, source: Source) -> None:
        self.status = status
        self.headers = headers
        self.ended = False  # all of it came, be it taken or not
        self.held_bytes = 0  # of pieces that came and were not taken
        self.waits_since: float | None = None  # the loop's time at which somebody began to wait for more
        self._pieces: list[bytes] = []
        self._error: RequestFailed | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._source = source

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """Raises `Broke` behind the last piece of a body that is not whole."""
        while not self._pieces:
            if self.ended:
                raise StopAsyncIteration
            if self._error is not None:
                raise self._error
            loop = asyncio.get_running_loop()
            self._waiter, self.waits_since = loop.create_future(), loop.time()
            try:
                await self._waiter
            finally:
                self._waiter = self.waits_since = None
        pieces, self._pieces, self.held_bytes = self._pieces, [], 0
        if not self.ended:  # else it may carry another answer now
            self._source.resume()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def read(self, most: int | None = None) -> bytes:
        """All that was not taken. Raises `Broke`, also for more than `most` bytes."""
        pieces, size = [], 0
        async for piece in self:
            size += len(piece)
            if most is not None and size > most:
                raise Broke(f"its body has more than {most} bytes")
            pieces.append(piece)
        return b"".join(pieces)

    def close(self) -> None:
        """To be called in every case: the connection of an answer that is not whole ends."""
        if not self.ended:
            self._source.abort()

    # ------------------------------------------------------------------------------------------------ of the source

    def feed(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self.held_bytes += len(piece)
        self._wake()

    def end(self) -> None:
        self.ended = True
        self._wake()

    def fail(self, error: RequestFailed) -> None:
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
