"""Counts the requests that run, around a replica's ASGI application: to know when it is idle, and what it has to do."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.openai.service_tier import BATCH_CLASS, CLASS_HEADER

COUNTED: Final = ("/v1/",)
_BATCH: Final = (CLASS_HEADER.encode(), BATCH_CLASS.encode())


class Counted:
    """POST below one of `paths` counts. Belongs to one event loop; any thread may read `in_flight`, and `batch` of
    them: those of the class batch, which take what others leave and ask for no further replica."""

    def __init__(self, application: ASGIApp, paths: tuple[str, ...] = COUNTED) -> None:
        self._application = application
        self._paths = paths
        self.in_flight = 0
        self.batch = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].startswith(self._paths):
            await self._application(scope, receive, send)
            return
        batch = _BATCH in scope["headers"]
        self.in_flight += 1
        self.batch += batch
        self._idle.clear()
        try:
            await self._application(scope, receive, send)
        finally:
            self.in_flight -= 1
            self.batch -= batch
            if not self.in_flight:
                self._idle.set()

    async def wait_idle(self) -> None:
        """Returns when nothing runs."""
        await self._idle.wait()
