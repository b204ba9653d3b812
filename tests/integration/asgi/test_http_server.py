"""How uvicorn is run inside a process of the mesh."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from serving.asgi import CONNECTION, HttpServer
from serving.errors import FailedPrecondition
from tests.support.waiting import eventually_async

_PIECES = 50_000  # of 1,000 bytes: more than the kernel's buffers hold


class Slow:
    """Answers in `parts`, one each 50 ms; counts the answers that were sent whole."""

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self.begun = asyncio.Event()
        self.whole = 0
        self.nodelay: list[int] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        await receive()
        transport = getattr(send, "__self__").transport  # noqa: B009 - uvicorn's own; there is no other way to it
        self.nodelay.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(self.parts):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            self.begun.set()
            await asyncio.sleep(0.05)
        await send({"type": "http.response.body", "body": b""})
        self.whole += 1


async def test_answers_leave_at_once() -> None:
    """asyncio leaves Nagle's algorithm on for sockets whose protocol is not named."""
    app = Slow(1)
    server = HttpServer(app)
    port = await server.start("127.0.0.1", 0)
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"http://127.0.0.1:{port}/")).text == "x"
    assert app.nodelay == [1]
    await server.stop(1)


async def test_what_runs_is_finished_within_the_limit() -> None:
    app = Slow(10)
    server = HttpServer(app)
    port = await server.start("127.0.0.1", 0)
    async with httpx.AsyncClient() as client:
        asking = asyncio.create_task(client.get(f"http://127.0.0.1:{port}/"))
        await app.begun.wait()
        await server.stop(20)
        assert (await asking).text == "x" * 10
    assert app.whole == 1


async def test_what_takes_longer_is_cut_off() -> None:
    app = Slow(1000)
    server = HttpServer(app)
    port = await server.start("127.0.0.1", 0)
    async with httpx.AsyncClient() as client:
        asking = asyncio.create_task(client.get(f"http://127.0.0.1:{port}/"))
        await app.begun.wait()
        began = time.monotonic()
        await server.stop(0.3)
        assert 0.25 < time.monotonic() - began < 10
        with pytest.raises(httpx.RemoteProtocolError):
            await asking
    assert app.whole == 0
    await server.stop(0.3)


async def test_a_port_that_is_taken_is_named() -> None:
    first = HttpServer(Slow(1))
    port = await first.start("127.0.0.1", 0)
    with pytest.raises(FailedPrecondition, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
        await HttpServer(Slow(1)).start("127.0.0.1", port)
    await first.stop(1)


async def test_signals_stay_with_the_process() -> None:
    import signal

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    server = HttpServer(Slow(1))
    await server.start("127.0.0.1", 0)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    await server.stop(1)


async def test_head_and_body_of_an_answer_come_in_one_piece() -> None:
    """Each piece wakes the client, and whoever passes it on."""

    async def whole(scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
            await send({"type": "http.response.body", "body": b"body"})

    server = HttpServer(whole)
    port = await server.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(20):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await reader.read(65536)).endswith(b"\r\n\r\nbody")
    writer.close()
    await server.stop(1)


async def test_small_and_large_pieces_keep_their_order() -> None:
    pieces = [bytes([97 + at]) * size for at, size in enumerate((10, 1, 200_000, 70_000, 3, 60_000, 5_536, 1, 300_000))]

    async def whole(scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            length = str(sum(map(len, pieces))).encode()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
            for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    server = HttpServer(whole)
    port = await server.start("127.0.0.1", 0)
    async with httpx.AsyncClient() as client:
        for _ in range(3):
            assert (await client.get(f"http://127.0.0.1:{port}/")).content == b"".join(pieces)
    await server.stop(1)


async def test_what_is_aborted_or_closed_has_told_all_or_nothing() -> None:
    """Pieces that are gathered go out before a close, and never after an abort."""

    async def application(scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = [(b"content-length", b"8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        if scope["path"] == "/abort":
            scope["extensions"][CONNECTION]["connection"].abort()
        raise ConnectionError("the application breaks off: the connection is closed")

    server = HttpServer(application)
    port = await server.start("127.0.0.1", 0)
    for path, end in (("/abort", b""), ("/close", b"\r\n\r\nhalf")):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        told = b""
        with contextlib.suppress(ConnectionError):
            told = await reader.read()
        assert told[-8:] == end
        writer.close()
    await server.stop(1)


async def test_an_application_hears_that_its_client_has_gone() -> None:
    gone, never = asyncio.Event(), asyncio.Event()
    told: list[bool] = []

    async def application(scope: Scope, receive: Receive, _send: Send) -> None:
        if scope["type"] != "http":
            return
        await receive()
        connection = scope["extensions"][CONNECTION]["connection"]
        connection.watch(gone.set)
        connection.watch(never.set)
        connection.unwatch(never.set)
        told.append(connection.lost)
        await gone.wait()
        told.append(connection.lost)
        connection.unwatch(gone.set)  # may come late

    server = HttpServer(application)
    port = await server.start("127.0.0.1", 0)
    _reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    await eventually_async(lambda: told == [False], what="the request")
    writer.close()
    await asyncio.wait_for(gone.wait(), 30)
    await eventually_async(lambda: told == [False, True], what="the end of the connection")
    assert not never.is_set()
    await server.stop(1)


async def test_whoever_asks_for_websockets_is_answered_over_http() -> None:
    """Whatever libraries are installed: no application here speaks them, and none is to fail for that."""
    asked: list[str] = []

    async def whole(scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        asked.append(scope["type"])
        await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    server = HttpServer(whole)
    port = await server.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    key = b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n"
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n" + key + b"\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 404")
    assert asked == ["http"]
    writer.close()
    await server.stop(1)


async def test_a_client_that_does_not_read_stops_an_application_that_never_waits() -> None:
    """What is gathered for one send is bounded: the transport has to hear of it to say that it has enough."""
    sent = 0

    async def endless(scope: Scope, _receive: Receive, send: Send) -> None:
        nonlocal sent
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while sent < _PIECES:
            await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
            sent += 1

    server = HttpServer(endless)
    port = await server.start("127.0.0.1", 0)
    _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    before = -1
    while sent != before or not sent:  # until the kernel's buffers are full
        before = sent
        await asyncio.sleep(0.3)
    assert sent < _PIECES
    writer.close()
    await server.stop(0.1)
