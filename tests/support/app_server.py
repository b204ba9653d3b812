"""An ASGI application under a real uvicorn server, in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import uvloop
from fastapi import FastAPI
from typing_extensions import Self

from serving.asgi import HttpServer

T = TypeVar("T")
_STOP_S = 1.0


class AppServer:
    """A context manager. `base_url` is for OpenAI's clients."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self._server = HttpServer(app)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._main, name="app-server")
        self.port = 0

    async def begin(self) -> None:
        """On its loop, before it listens."""

    async def end(self) -> None:
        """On its loop, when it serves no more."""

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        return f"{self.root}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(60), "the server did not start"
        assert self.port, "the server could not listen"
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive(), "the server did not end"

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs it on the server's loop."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def _main(self) -> None:
        loop = uvloop.new_event_loop()
        try:
            loop.run_until_complete(self._serve())
        finally:
            loop.close()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            await self.begin()
            self.port = await self._server.start("127.0.0.1", 0)
            self._ready.set()
            await self._stop.wait()
        finally:
            self._ready.set()
            await self._server.stop(_STOP_S)
            await self.end()
