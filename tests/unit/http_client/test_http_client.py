"""The client against servers that say what a test wants, byte for byte."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import InvalidArgument
from serving.http_client import Broke, HttpClient, NotConnected, Silent
from serving.timeouts import wait_for
from tests.support.certificates import Authority
from tests.support.moments import Moment, at_each, cut, turn_of
from tests.unit.http_client.scripted_server import ScriptedServer, serving

HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Twice: a\r\nx-twice: b\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\nx-trailer: t\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\nhello"
LONG_S = 60.0


@asynccontextmanager
async def client_of(
    *, connect_s: float = LONG_S, silence_s: float = LONG_S, tls: ssl.SSLContext | None = None
) -> AsyncIterator[HttpClient]:
    client = HttpClient(connect_s=connect_s, silence_s=silence_s, tls=tls)
    try:
        yield client
    finally:
        await client.close()


async def get(client: HttpClient, server: ScriptedServer, method: str = "GET") -> bytes:
    answer = await client.request(method, server.url, "/", {})
    try:
        return await answer.read()
    finally:
        answer.close()


async def test_an_answer_that_is_larger_than_wanted_is_not_read() -> None:
    whole = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123456789"
    async with serving(whole) as server, client_of() as client:
        for most in (None, 10):
            got = await client.request("GET", server.url, "/", {})
            assert await got.read(most) == b"0123456789"
            got.close()
        got = await client.request("GET", server.url, "/", {})
        with pytest.raises(Broke, match="more than 9 bytes"):
            await got.read(9)
        got.close()


async def test_a_request_is_sent_as_it_is_and_its_answer_read() -> None:
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readexactly(4))
        writer.write(HELLO)

    async with serving(answer) as server, client_of() as client:
        got = await client.request("POST", server.url, "/v1/x?a=%20", {"x-request-id": "7"}, b"body")
        assert (got.status, got.headers["x-twice"], await got.read()) == (200, "a", b"hello")
        assert [field for field in got.headers.raw if field[0] == b"x-twice"] == [
            (b"x-twice", b"a"),
            (b"x-twice", b"b"),
        ]
        assert got.headers.get("absent") is None
        assert len(got.headers) == len(list(got.headers)) == 2
        got.close()
        lines = server.heads[0].split(b"\r\n")
    host = server.url.removeprefix("http://").encode()
    assert lines == [b"POST /v1/x?a=%20 HTTP/1.1", b"host: " + host, b"x-request-id: 7", b"content-length: 4", b"", b""]
    assert asked == [b"body"]


@pytest.mark.parametrize("data", [HELLO, CHUNKED], ids=["length", "chunks"])
async def test_a_connection_is_used_again(data: bytes) -> None:
    async with serving(data) as server, client_of() as client:
        for _ in range(3):
            assert await get(client, server) == b"hello"
        assert server.connections == 1


@pytest.mark.parametrize(
    "data",
    [
        HELLO + b"more",
        HELLO + HELLO,
        HELLO.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"),
        HELLO.replace(b"1.1", b"1.0"),
    ],
    ids=["bytes behind it", "another answer behind it", "said so", "HTTP/1.0"],
)
async def test_a_connection_is_not_used_again(data: bytes) -> None:
    async with serving(data) as server, client_of() as client:
        for _ in range(3):
            assert await get(client, server) == b"hello"
        assert server.connections == 3


async def test_what_a_server_says_unasked_answers_no_request() -> None:
    more = asyncio.Event()

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HELLO)
        await more.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
        await writer.drain()

    async with serving(answer) as server, client_of() as client:
        assert await get(client, server) == b"hello"
        more.set()
        await wait_for(server.gone.wait(), LONG_S)
        assert await get(client, server) == b"hello"
        assert server.connections == 2


async def test_bodies_that_end_with_their_connection() -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(UNTIL_CLOSE)
        writer.close()

    async with serving(answer) as server, client_of() as client:
        assert [await get(client, server) for _ in range(2)] == [b"hello"] * 2


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_answers_without_a_body(status: bytes) -> None:
    async with serving(b"HTTP/1.1 " + status + b"\r\n\r\n") as server, client_of() as client:
        assert [await get(client, server) for _ in range(2)] == [b"", b""]
        assert server.connections == 1


async def test_the_answer_for_a_head_alone_has_no_body_whatever_it_says() -> None:
    async with serving(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n") as server, client_of() as client:
        assert [await get(client, server, "HEAD") for _ in range(2)] == [b"", b""]


async def test_interim_answers_are_passed_over() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nx: y\r\n\r\n"
    async with serving(interim + HELLO) as server, client_of() as client:
        assert [await get(client, server) for _ in range(2)] == [b"hello"] * 2
        assert server.connections == 1


@given(st.sampled_from([HELLO, CHUNKED]), st.lists(st.integers(1, 12), max_size=30))
async def test_it_does_not_matter_how_the_bytes_are_cut(data: bytes, sizes: list[int]) -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        rest = data
        for size in sizes:
            piece, rest = rest[:size], rest[size:]
            writer.write(piece)
            await asyncio.sleep(0)
        writer.write(rest)

    async with serving(answer) as server, client_of() as client:
        assert [await get(client, server) for _ in range(2)] == [b"hello"] * 2


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "the connection ended"),
        (b"HTTP/1.1 200", "the connection ended"),
        (HELLO[:-2], "the connection ended"),
        (CHUNKED[:-5], "the connection ended"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 700_000 + b"\r\n\r\n", "more than 65536 bytes"),
    ],
)
async def test_what_is_no_whole_answer_is_said(data: bytes, why: str) -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        writer.close()

    async with serving(answer) as server, client_of() as client:
        with pytest.raises(Broke, match=why):
            await get(client, server)


async def test_what_came_before_it_broke_is_given_first() -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED[:-15])
        await writer.drain()
        writer.close()

    async with serving(answer) as server, client_of() as client:
        got = await client.request("GET", server.url, "/", {})
        assert b"hello".startswith(await anext(aiter(got)))
        with pytest.raises(Broke):
            await got.read()
        got.close()


@pytest.mark.parametrize("data", [b"", HELLO[:-2]], ids=["before the head", "in the body"])
async def test_a_server_that_falls_silent_is_given_up(data: bytes) -> None:
    async with serving(data) as server, client_of(silence_s=0.1) as client:
        with pytest.raises(Silent, match=r"nothing came for 0\.1 s"):
            await get(client, server)
        await wait_for(server.gone.wait(), LONG_S)


async def test_time_in_which_nobody_wants_more_is_no_silence() -> None:
    asked = asyncio.Event()

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HELLO[:-2])
        await asked.wait()
        writer.write(HELLO[-2:])

    async with serving(answer) as server, client_of(silence_s=2.0) as client:
        got = await client.request("GET", server.url, "/", {})
        assert await anext(aiter(got)) == b"hel"
        await asyncio.sleep(2.5)  # longer than a silence may be
        asked.set()
        assert await got.read() == b"lo"
        got.close()


async def test_no_more_is_read_than_somebody_takes() -> None:
    sent = [0]
    size = 64 << 20

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        for _ in range(size >> 16):
            writer.write(bytes(1 << 16))
            await writer.drain()
            sent[0] += 1 << 16

    async with serving(answer) as server, client_of() as client:
        got = await client.request("GET", server.url, "/", {})
        await asyncio.sleep(0.5)
        assert sent[0] < size // 2
        assert sum([len(piece) async for piece in got]) == size
        got.close()


async def test_an_answer_that_is_not_wanted_ends_its_connection() -> None:
    async with serving(HELLO[:-2]) as server, client_of() as client:
        got = await client.request("GET", server.url, "/", {})
        got.close()
        await wait_for(server.gone.wait(), LONG_S)


async def test_requests_side_by_side_each_get_their_own_answer() -> None:
    """Some are cancelled: also when their answer was there and not looked at yet, and another uses the connection."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = await reader.readexactly(8)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n" + body)

    async def ask(client: HttpClient, server: ScriptedServer, number: int) -> bytes:
        got = await client.request("POST", server.url, "/", {}, b"%8d" % number)
        try:
            return await got.read()
        finally:
            got.close()

    async def work(client: HttpClient, server: ScriptedServer, numbers: range) -> int:
        answered = 0
        for number in numbers:
            asking = asyncio.create_task(ask(client, server, number))
            if number % 3:
                assert await asking == b"%8d" % number
                answered += 1
            else:
                await cut(asking, Moment(number % 11))
        return answered

    async with serving(answer) as server, client_of() as client:
        works = [work(client, server, range(1000 * one, 1000 * one + 150)) for one in range(8)]
        assert sum(await wait_for(asyncio.gather(*works), LONG_S)) == 8 * 100


async def test_a_request_can_be_ended_at_any_moment() -> None:
    async with serving(CHUNKED) as server, client_of() as client:

        async def scenario(moment: Moment) -> None:
            await cut(get(client, server), moment)
            assert await get(client, server) == b"hello"

        await at_each(scenario)


async def test_where_nobody_listens_nothing_is_sent() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        async with client_of() as client:
            with pytest.raises(NotConnected, match=url) as failed:
                await client.request("GET", url, "/", {})
    assert isinstance(failed.value.cause, ConnectionRefusedError)


async def test_who_does_not_accept_is_given_up() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen(0)
        address = bound.getsockname()
        with socket.create_connection(address):  # all the room there is
            async with client_of(connect_s=0.2) as client:
                with pytest.raises(NotConnected, match=r"not in 0\.2 s") as failed:
                    await client.request("GET", f"http://127.0.0.1:{address[1]}", "/", {})
    assert isinstance(failed.value.cause, TimeoutError)


@pytest.mark.parametrize("origin", ["http://127.0.0.1:99999", "http://[::1"])
async def test_what_is_no_address_is_said(origin: str) -> None:
    async with client_of() as client:
        with pytest.raises(NotConnected):
            await client.request("GET", origin, "/", {})


async def test_nothing_is_said_that_would_be_another_request() -> None:
    async with serving(HELLO) as server, client_of() as client:
        for path in ("/a b", "/a\r\nx: y", "no-slash", ""):
            with pytest.raises(InvalidArgument, match="must be encoded"):
                await client.request("GET", server.url, path, {})
        with pytest.raises(InvalidArgument, match="`x-a` has a line break"):
            await client.request("GET", server.url, "/", {"x-a": "b\r\nx: y"})
        assert server.heads == []


async def test_who_closes_it_ends_what_runs() -> None:
    async with serving(b"") as server:
        client = HttpClient(connect_s=LONG_S, silence_s=LONG_S)
        asking = asyncio.create_task(get(client, server))
        await turn_of(lambda: bool(server.heads))
        await client.close()
        with pytest.raises(Broke, match="closed"):
            await asking
        await wait_for(server.gone.wait(), LONG_S)


async def test_connections_that_nobody_uses_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.http_client.client._IDLE_S", 0.05)
    async with serving(HELLO) as server, client_of() as client:
        assert await get(client, server) == b"hello"
        await wait_for(server.gone.wait(), LONG_S)
        assert await get(client, server) == b"hello"
        assert server.connections == 2


async def test_certificates_are_checked(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path / "authority")
    files = authority.issue("server")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.cert_file, files.key_file)
    async with serving(HELLO, context) as server:
        async with client_of(tls=ssl.create_default_context(cafile=files.ca_file)) as client:
            assert [await get(client, server) for _ in range(2)] == [b"hello"] * 2
            assert server.connections == 1
        async with client_of() as client:
            with pytest.raises(NotConnected, match="certificate verify failed") as failed:
                await get(client, server)
    assert isinstance(failed.value.cause, ssl.SSLError)


def test_loops_of_uvloop_do_as_well() -> None:
    """Ray's actors have them."""

    async def work() -> None:
        async with serving(CHUNKED) as server, client_of() as client:
            assert [await get(client, server) for _ in range(3)] == [b"hello"] * 3
            assert server.connections == 1
        await test_requests_side_by_side_each_get_their_own_answer()
        await test_no_more_is_read_than_somebody_takes()
        await test_what_came_before_it_broke_is_given_first()
        await test_a_server_that_falls_silent_is_given_up(b"")

    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(work())
    finally:
        loop.close()
