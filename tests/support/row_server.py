"""A server of completions that does to each request what a script says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Script: TypeAlias = Callable[["RowServer", dict[str, Any]], Awaitable["Said | None"]]


@dataclass
class Said:
    """An answer. None in its place ends the connection."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


def completion(body: dict[str, Any]) -> Said:
    """Answers with the prompt."""
    choice = {"index": 0, "text": body["prompt"], "finish_reason": "stop"}
    return Said(body={"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": body["max_tokens"]}})


class RowServer:
    """`bodies` and `heads` are those of the requests, in their order; `most` is how many were there at once."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._server: asyncio.Server | None = None
        self.bodies: list[dict[str, Any]] = []
        self.heads: list[str] = []
        self.in_flight = 0
        self.most = 0
        self.port = 0
        self._handlers: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def open(self) -> None:
        """On the port that it had before, if any."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            for handler in tuple(self._handlers):
                handler.cancel()
            if self._handlers:
                await asyncio.wait(self._handlers)
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(line for line in head.lower().split("\r\n") if line.startswith("content-length:"))
                body = json.loads(await reader.readexactly(int(length.split(":")[1])))
                self.heads.append(head)
                self.bodies.append(body)
                said = await self._counted(body)
                if said is None:
                    return
                data = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
                fields = {"content-length": str(len(data)), "x-request-id": f"r{len(self.bodies)}", **said.headers}
                lines = [f"HTTP/1.1 {said.status} X", *(f"{name}: {value}" for name, value in fields.items())]
                writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client has gone, or the test ends
        finally:
            self._handlers.discard(handler)
            writer.close()

    async def _counted(self, body: dict[str, Any]) -> Said | None:
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            return await self._script(self, body)
        finally:
            self.in_flight -= 1


@asynccontextmanager
async def row_server(script: Script) -> AsyncIterator[RowServer]:
    server = RowServer(script)
    await server.open()
    try:
        yield server
    finally:
        await server.close()
