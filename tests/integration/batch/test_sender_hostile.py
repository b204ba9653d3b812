"""A sender against endpoints that answer what is no answer, and that break the protocol."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from serving.batch.sending.make import make_sender
from serving.batch.sending.places import Fixed
from tests.support.row_sender import QUICK, row, sender_to, text
from tests.support.row_server import RowServer, Said, completion, row_server


@pytest.mark.parametrize("data", [b"[" * 200_000, b'{"a": NaN}', b"\xff\xfe", b"", b'"text"', b"[]", b"1e999"])
async def test_rubbish_is_a_failure_of_the_endpoint(data: bytes) -> None:
    async def rubbish(server: RowServer, body: dict[str, Any]) -> Said:
        return completion(body) if len(server.bodies) > 1 else Said(200, data)

    async with row_server(rubbish) as server, sender_to(server) as sender:
        assert text(await sender.send(row("p"))) == "p"
        assert sender.stats.retries == 1


@pytest.mark.parametrize("status", [204, 302, 304])
async def test_a_status_that_answers_no_request_is_none(status: int) -> None:
    async def moved(_server: RowServer, body: dict[str, Any]) -> Said:
        return Said(status, b"" if status != 302 else completion(body).body, {"location": "http://127.0.0.1:1/"})

    async with row_server(moved) as server, sender_to(server, config=replace(QUICK, max_attempts=2)) as sender:
        found = await sender.send(row("p"))
        assert found.fault is not None
        assert (found.fault.code, found.fault.attempts) == ("invalid_answer", 2)


@contextlib.asynccontextmanager
async def raw_server(answer: Callable[[asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[str]:
    """Gives its address. `answer` writes what it likes to every request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            await answer(writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


async def closes_after_head(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + b"content-length: 100\r\n\r\n")
    await writer.drain()


async def never_ends(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + b"transfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1000\r\n" + b" " * 0x1000 + b"\r\n")
        await writer.drain()


async def drips(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + b"content-length: 1000000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.01)


async def says_no_http(writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x00\x01rubbish\r\n\r\n")
    await writer.drain()


async def has_a_giant_head(writer: asyncio.StreamWriter) -> None:
    for number in range(1000):
        writer.write(b"%s" % (HEAD if not number else b"x-%d: %s\r\n" % (number, b"y" * 1000)))
        await writer.drain()


@pytest.mark.parametrize("answer", [closes_after_head, never_ends, drips, says_no_http, has_a_giant_head])
async def test_an_endpoint_that_breaks_the_protocol_is_given_up(
    answer: Callable[[asyncio.StreamWriter], Awaitable[None]],
) -> None:
    config = replace(QUICK, max_attempts=2, timeout_s=0.5, max_answer_bytes=1 << 20)
    async with raw_server(answer) as url, make_sender(Fixed((url,), model="m"), config) as sender:
        found = await sender.send(row("p"))
        assert found.fault is not None
        assert (found.fault.code, found.fault.attempts) == ("unavailable", 2)
