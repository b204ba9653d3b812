"""Connections on which a client is slow, or silent, end in time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from starlette.types import Receive, Scope, Send

from serving import asgi
from serving.asgi import HttpServer

_REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
_UPLOAD = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n"
_HALF_HEAD = b"GET / HTTP/1.1\r\nhost:"
_LIMIT_S = 30.0  # of a test; what is bounded is bounded by less than a second
_NEVER_S = 3600.0
_EMPTY = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]}


async def _at_once(scope: Scope, _receive: Receive, send: Send) -> None:
    """Answers without a look at the body."""
    if scope["type"] == "http":
        await send(_EMPTY)
        await send({"type": "http.response.body", "body": b""})


class Client:
    """One connection, on which bytes are written as they are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, data: bytes = _REQUEST) -> None:
        """Until it is answered."""
        self._writer.write(data)
        assert (await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), _LIMIT_S)).startswith(b"HTTP/1.1 200 ")

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    @property
    def ended(self) -> bool:
        return self._reader.at_eof() or self._writer.is_closing()

    async def end(self) -> None:
        """The server has closed it, with nothing more said."""
        with contextlib.suppress(ConnectionError):  # closed with unread bytes
            assert await asyncio.wait_for(self._reader.read(), _LIMIT_S) == b""

    async def drip(self, data: bytes, each_s: float) -> None:
        """Says it again and again, until the server has closed it."""
        async with asyncio.timeout(_LIMIT_S):
            while not self.ended:
                self._writer.write(data)
                await asyncio.sleep(each_s)

    def close(self) -> None:
        self._writer.close()


Connect = Callable[[float], Awaitable[Client]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Of a server whose connections may be idle for so long."""
    async with contextlib.AsyncExitStack() as stack:

        async def made(keep_alive_s: float) -> Client:
            server = HttpServer(_at_once, keep_alive_s=keep_alive_s)
            port = await server.start("127.0.0.1", 0)
            stack.push_async_callback(server.stop, 1)
            client = Client(*await asyncio.open_connection("127.0.0.1", port))
            stack.callback(client.close)
            return client

        yield made


async def test_a_connection_on_which_nothing_is_said_ends(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "_HEAD_S", 0.3)
    await (await connect(_NEVER_S)).end()


async def test_a_head_without_an_end_ends(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it comes byte by byte."""
    monkeypatch.setattr(asgi, "_HEAD_S", 0.3)
    client = await connect(_NEVER_S)
    client.write(_HALF_HEAD)
    await client.drip(b"x", 0.05)


async def test_a_second_head_without_an_end_ends(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "_HEAD_S", 0.5)
    client = await connect(_NEVER_S)
    await client.ask()
    client.write(_HALF_HEAD)
    await client.end()


async def test_an_idle_connection_ends(connect: Connect) -> None:
    client = await connect(0.3)
    await client.ask()
    await client.end()


async def test_lines_between_requests_keep_no_connection(connect: Connect) -> None:
    """A parser passes over them: no head begins."""
    client = await connect(0.3)
    await client.ask()
    await client.drip(b"\r\n", 0.05)


async def test_one_line_after_an_answer_keeps_no_connection(connect: Connect) -> None:
    client = await connect(0.3)
    await client.ask()
    client.write(b"\r\n")
    await client.end()


async def test_the_rest_of_a_refused_body_keeps_no_connection(connect: Connect) -> None:
    """What is answered before its body has come leaves nobody who waits for that."""
    client = await connect(0.3)
    await client.ask(_UPLOAD)
    client.write(b"x")
    await client.end()


async def test_a_slow_body_that_nobody_wants_keeps_no_connection(connect: Connect) -> None:
    client = await connect(0.3)
    await client.ask(_UPLOAD)
    await client.drip(b"x", 0.05)


async def test_a_connection_that_is_used_stays(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long in all; a head that has begun is not idle, and one that has ended is in time."""
    monkeypatch.setattr(asgi, "_HEAD_S", _NEVER_S)
    client = await connect(1.0)
    await client.ask()
    began = asyncio.get_running_loop().time()
    client.write(_HALF_HEAD)
    await asyncio.sleep(1.5)  # longer than it may be idle
    await client.ask(b" x\r\n\r\n")
    await client.ask()
    assert not client.ended
    assert asyncio.get_running_loop().time() - began > 1.0
    await client.end()
