"""A receiver of callbacks: a real HTTP server that notes what comes, and answers as a test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from serving.webhooks import ID
from tests.support.waiting import eventually_async

Answer = Callable[["Received"], int]


@dataclass(frozen=True)
class Received:
    """A POST. `tries` counts those with the same id, from 1."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    tries: int

    @property
    def id(self) -> str:
        return self.headers[ID]

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)["data"]
        return found


class Receiver:
    """`answer` gives the status of each POST; `headers` go with it. While `held` is clear, POSTs wait."""

    def __init__(self, answer: Answer = lambda _: 204) -> None:
        self.answer = answer
        self.headers: dict[str, str] = {}
        self.body = b""
        self.received: list[Received] = []
        self.held = asyncio.Event()
        self.held.set()
        self.port = 0
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Receiver:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Again at the same port, too."""
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._receive)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """May be repeated."""
        self.held.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def url(self, path: str = "/hook", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    async def told(self, count: int = 1) -> list[Received]:
        """The first so many."""
        await eventually_async(lambda: len(self.received) >= count, what=f"{count} callbacks")
        return self.received[:count]

    async def _receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        known = sum(one.headers.get(ID) == request.headers.get(ID) for one in self.received)
        received = Received(request.path, dict(request.headers), body, known + 1)
        self.received.append(received)
        status = self.answer(received)
        await self.held.wait()
        return web.Response(status=status, headers=self.headers, body=self.body)
