"""One gateway: its server and its parts, and in which order they start and end."""

from __future__ import annotations

import asyncio
from typing import Final

from serving.asgi import HttpServer
from serving.errors import InvalidArgument
from serving.gateway.config import GatewayConfig
from serving.gateway.parts import GatewayParts
from serving.observe import new_registry
from serving.python_deployment.settings import joined
from serving.timeouts import cancel_and_wait

_CUT_S: Final = 1.0  # for the last words to requests that the drain timeout cuts off


class Gateway:
    """`start`, then `stop`. Belongs to one event loop."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self._parts = GatewayParts(config, new_registry())
        self._server = HttpServer(self._parts)
        self.address = ""

    async def start(self) -> None:
        """Returns when it takes requests. Raises `FailedPrecondition` when it cannot listen."""
        config = self._config
        host, port = _listen(config.listen)
        bound = await self._server.start(host, port, config.tls)  # first: a port that is taken ends it at once
        self.address = joined(host, bound)
        await self._parts.open(self.address)

    async def stop(self) -> None:
        """Says that it leaves, then takes no more, and finishes what runs within the drain timeout; releases all."""
        if self.address:
            self._parts.leave()
            await asyncio.sleep(self._config.leave_s)  # so that who asks /health sends requests elsewhere
        await self._stop_server()
        await self._parts.close()

    async def _stop_server(self) -> None:
        limit_s = self._config.drain_timeout_s
        stopping = asyncio.ensure_future(self._server.stop(limit_s + _CUT_S))
        try:
            await asyncio.wait({stopping}, timeout=limit_s)
            self._parts.cut_off()
            await stopping
        finally:
            await cancel_and_wait(stopping)

    async def wait_ended(self) -> None:
        """Returns when a part of it has ended by itself, which is an error."""
        waits = [asyncio.ensure_future(wait()) for wait in (self._server.wait_ended, self._parts.wait_broken)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_and_wait(*waits)


def _listen(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise InvalidArgument(f"listen: {text!r} is not host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)
