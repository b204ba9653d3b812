"""A server that answers with given bytes."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

Answering: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class ScriptedServer:
    """`connections` counts those that came; `heads` are the requests' ones, in their order."""

    def __init__(self, answer: Answering) -> None:
        self._answer = answer
        self.connections = 0
        self.heads: list[bytes] = []
        self.gone = asyncio.Event()  # a client has closed a connection
        self.url = ""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                await self._answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.gone.set()
        finally:
            writer.close()


@asynccontextmanager
async def serving(answer: Answering | bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[ScriptedServer]:
    """With bytes each request is answered with these, at once."""
    given = answer if callable(answer) else _always(answer)
    scripted = ScriptedServer(given)
    server = await asyncio.start_server(scripted, "127.0.0.1", 0, ssl=tls)
    scripted.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield scripted


def _always(data: bytes) -> Answering:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return answer
