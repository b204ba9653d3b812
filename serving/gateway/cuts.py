"""The requests that run, and how all of them are ended."""

from __future__ import annotations

import asyncio
from types import TracebackType

from serving.errors import MeshError, Unavailable


class Cuts:
    """What is told to requests when they are cut off. Belongs to one event loop."""

    def __init__(self) -> None:
        self._running: set[asyncio.Future[MeshError]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def one(self) -> _Cut:
        """A context manager around a request; gives what is set when it is cut off."""
        return _Cut(self._running)

    def all(self, why: str) -> None:
        """Each is told that this is unavailable."""
        for cut in self._running:
            if not cut.done():
                cut.set_result(Unavailable(why))


class _Cut:
    __slots__ = ("_cut", "_running")

    def __init__(self, running: set[asyncio.Future[MeshError]]) -> None:
        self._cut: asyncio.Future[MeshError] = asyncio.get_running_loop().create_future()
        self._running = running

    def __enter__(self) -> asyncio.Future[MeshError]:
        self._running.add(self._cut)
        return self._cut

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._running.discard(self._cut)
