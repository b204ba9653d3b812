"""The thread on which every blocking client of the process works."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Wait(Protocol):
    """Runs work on the client's thread, and waits for what it gives."""

    def __call__(self, work: Coroutine[Any, Any, T], /) -> T: ...


class ClientLoop:
    """One event loop on one thread for every `MeshClient` of the process: gRPC wants no more than one.

    It runs from the first client to the last one.
    """

    _lock = threading.Lock()
    _current: ClientLoop | None = None

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._users = 0
        self._thread = threading.Thread(target=self._run, name="mesh-client", daemon=True)
        self._thread.start()

    @classmethod
    def acquire(cls) -> ClientLoop:
        with cls._lock:
            if cls._current is None or not cls._current._thread.is_alive():
                cls._current = cls()
            cls._current._users += 1
            return cls._current

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users:
                return
            if ClientLoop._current is self:
                ClientLoop._current = None
        self.loop.call_soon_threadsafe(self.loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def owns_this_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()
