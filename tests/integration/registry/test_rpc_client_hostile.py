"""Servers that break the rules: every call ends with a precise status, the client lives and stays small."""

from __future__ import annotations

import gzip
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.registry.grpc_servers import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    OK_HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    HostileServer,
    Peer,
    frame,
    header,
    headers,
    message,
)
from tests.integration.registry.probes import ClientProbe

PATH = "/test.Echo/Unary"
StartClient = Callable[..., ClientProbe]
MAX_CLIENT_KB = 200_000


@pytest.fixture
def start_client() -> Iterator[StartClient]:
    started: list[ClientProbe] = []

    def start(address: str, **options: object) -> ClientProbe:
        started.append(ClientProbe(address, **options))
        return started[-1]

    yield start
    for probe in started:
        status = Path(f"/proc/{probe.popen.pid}/status").read_text()
        resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        assert resident < MAX_CLIENT_KB
        assert probe.end() == 0


def _answer(*parts: Callable[[int], bytes]) -> Callable[[Peer], None]:
    """Answers the first call with these bytes and waits for the client's end."""

    def behave(peer: Peer) -> None:
        peer.greet()
        stream = peer.wait_call()
        for part in parts:
            peer.send(part(stream))
        peer.wait_closed()

    return behave


def _head(stream: int) -> bytes:
    return headers(stream, OK_HEADERS)


def _data(payload: bytes, *, end: bool = False) -> Callable[[int], bytes]:
    return lambda stream: frame(DATA, END_STREAM if end else 0, stream, payload)


def _trailers(**fields: str) -> Callable[[int], bytes]:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return lambda stream: headers(stream, named, end=True)


def _only(**fields: str) -> Callable[[int], bytes]:
    named = {":status": "200", **{name.replace("_", "-"): value for name, value in fields.items()}}
    return lambda stream: headers(stream, named, end=True)


OK = _trailers(grpc_status="0")

CASES: dict[str, tuple[list[Callable[[int], bytes]], str, str]] = {
    "no message": ([_head, OK], "INTERNAL", "no message"),
    "two messages": ([_head, _data(message(b"a") + message(b"b")), OK], "INTERNAL", "more than one"),
    "half a message": ([_head, _data(message(b"abc", length=10)), OK], "INTERNAL", "3 of 10 bytes"),
    "half a prefix": ([_head, _data(b"\0\0"), OK], "INTERNAL", "2 of 5 bytes"),
    "no trailers": ([_head, _data(message(b"a"), end=True)], "INTERNAL", "without a grpc-status"),
    "unknown status": ([_head, _trailers(grpc_status="77")], "UNKNOWN", "77"),
    "status that is no number": ([_head, _trailers(grpc_status="x")], "UNKNOWN", "x"),
    "only trailers": ([_only(grpc_status="5", grpc_message="not%20here")], "NOT_FOUND", "not here"),
    "a web page": ([_only(content_type="text/html")], "UNKNOWN", "text/html"),
    "HTTP 503": ([lambda s: headers(s, {":status": "503"}, end=True)], "UNAVAILABLE", "503"),
    "HTTP 404": ([lambda s: headers(s, {":status": "404"}, end=True)], "UNIMPLEMENTED", "404"),
    "bad compression flag": ([_head, _data(message(b"a", flag=7)), OK], "INTERNAL", "compression flag 7"),
    "compressed without an encoding": ([_head, _data(message(b"a", flag=1)), OK], "INTERNAL", "grpc-encoding"),
    "an unknown encoding": (
        [lambda s: headers(s, {**OK_HEADERS, "grpc-encoding": "snappy"}), OK],
        "INTERNAL",
        "snappy",
    ),
    "damaged gzip": (
        [lambda s: headers(s, {**OK_HEADERS, "grpc-encoding": "gzip"}), _data(message(b"rubbish", flag=1)), OK],
        "INTERNAL",
        "gzip",
    ),
    "a gzip bomb": (
        [
            lambda s: headers(s, {**OK_HEADERS, "grpc-encoding": "gzip"}),
            _data(message(gzip.compress(b"\0" * (12 << 20)), flag=1)),
            OK,
        ],
        "RESOURCE_EXHAUSTED",
        "after decompression",
    ),
    "a length that lies": ([_head, _data(message(b"", length=0xFFFFFFFF)), OK], "RESOURCE_EXHAUSTED", "4294967295"),
    "reset": ([lambda s: frame(RST_STREAM, 0, s, struct.pack(">I", 2))], "INTERNAL", "INTERNAL_ERROR"),
    "large metadata": ([lambda s: headers(s, {":status": "200", "big": "b" * 16_000}), OK], "UNKNOWN", "content-type"),
    "metadata that is not base64": (
        [lambda s: headers(s, {**OK_HEADERS, "x-bin": "***"}), _data(message(b"a")), OK],
        "INTERNAL",
        "base64",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_answers_that_break_the_rules(start_client: StartClient, name: str) -> None:
    parts, code, said = CASES[name]
    with HostileServer(_answer(*parts)) as server:
        client = start_client(server.address, max_message_bytes=10 << 20)
        events = client.unary(PATH, b"x", timeout_ms=60_000)
    assert events.code == code, events.message
    assert said in events.message
    assert events.done is not None
    assert not events.done["not_processed"]


BROKEN_FRAMES = {
    "rubbish": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "a frame that is too large": struct.pack(">I", 1 << 23)[1:] + b"\0\0\0\0\0\1" + b"x" * 100,
    "data on a stream that is not open": frame(DATA, 0, 7, b"x"),
    "headers that cannot be decoded": frame(HEADERS, END_HEADERS, 1, b"\xff" * 20),
    "a continuation of nothing": frame(CONTINUATION, END_HEADERS, 1, b""),
    "settings of a wrong size": frame(SETTINGS, 0, 0, b"xx"),
    "a ping of a wrong size": frame(PING, 0, 0, b"x"),
    "nothing at all": b"",
}


@pytest.mark.parametrize("name", BROKEN_FRAMES)
def test_connections_that_break_the_rules(start_client: StartClient, name: str) -> None:
    def behave(peer: Peer) -> None:
        peer.greet()
        peer.wait_call()
        peer.send(BROKEN_FRAMES[name])

    with HostileServer(behave) as server:
        events = start_client(server.address).unary(PATH, b"x", timeout_ms=60_000)
    assert events.code in {"UNAVAILABLE", "INTERNAL"}
    assert events.message


def test_a_header_bomb(start_client: StartClient) -> None:
    def behave(peer: Peer) -> None:
        peer.greet()
        stream = peer.wait_call()
        peer.send(frame(HEADERS, 0, stream, header("a", "b" * 10_000)))
        for _ in range(2000):
            peer.send(frame(CONTINUATION, 0, stream, header("a", "b" * 10_000)))
        peer.wait_closed()

    with HostileServer(behave) as server:
        events = start_client(server.address).unary(PATH, b"x", timeout_ms=60_000)
    assert events.code in {"RESOURCE_EXHAUSTED", "UNAVAILABLE"}


def test_a_flood_of_pings_and_settings(start_client: StartClient) -> None:
    """The client may close, but neither grows nor hangs."""

    def behave(peer: Peer) -> None:
        peer.greet()
        stream = peer.wait_call()
        for _ in range(300):
            peer.send(frame(PING, 0, 0, b"12345678") * 100 + frame(SETTINGS, 0, 0) * 10)
        peer.send(_head(stream) + _data(message(b"a"))(stream) + OK(stream))
        peer.wait_closed()

    with HostileServer(behave) as server:
        events = start_client(server.address).unary(PATH, b"x", timeout_ms=60_000)
    assert events.code in {"OK", "UNAVAILABLE"}


def test_one_byte_at_a_time(start_client: StartClient) -> None:
    def behave(peer: Peer) -> None:
        peer.greet()
        stream = peer.wait_call()
        for byte in _head(stream) + _data(message(b"slow"))(stream) + OK(stream):
            peer.send(bytes([byte]))
        peer.wait_closed()

    with HostileServer(behave) as server:
        assert start_client(server.address).unary(PATH, b"x", timeout_ms=60_000).messages == [b"slow"]


def test_a_server_that_never_speaks(start_client: StartClient) -> None:
    with HostileServer(lambda peer: peer.wait_closed()) as server:
        events = start_client(server.address, connect_timeout_ms=300).unary(PATH)
    assert events.code == "UNAVAILABLE"
    assert "300 ms" in events.message


def test_a_server_that_falls_silent_is_noticed(start_client: StartClient) -> None:
    def behave(peer: Peer) -> None:
        peer.greet()
        peer.wait_call()
        peer.wait_for(PING)
        peer.wait_closed()  # reads, and answers no ping

    with HostileServer(behave) as server:
        client = start_client(server.address, keepalive_interval_ms=200, keepalive_timeout_ms=200)
        events = client.unary(PATH, b"x")
    assert events.code == "UNAVAILABLE"
    assert "keepalive" in events.message


def test_a_slow_server_that_answers_pings_is_left_alone(start_client: StartClient) -> None:
    def behave(peer: Peer) -> None:
        peer.greet()
        stream = peer.wait_call()
        for _ in range(3):
            _, _, payload = peer.wait_for(PING)
            peer.send(frame(PING, 1, 0, payload))
        peer.send(_head(stream) + _data(message(b"late"))(stream) + OK(stream))
        peer.wait_closed()

    with HostileServer(behave) as server:
        client = start_client(server.address, keepalive_interval_ms=100, keepalive_timeout_ms=20_000)
        assert client.unary(PATH, b"x").messages == [b"late"]


def _goaway_after_the_first(peer: Peer) -> None:
    """Reads two calls, answers the first after a GOAWAY that says it saw no other."""
    peer.greet()
    first = peer.wait_call()
    peer.wait_call()
    peer.send(frame(GOAWAY, 0, 0, struct.pack(">II", first, 0)))
    peer.send(_head(first) + _data(message(b"first"))(first) + OK(first))
    peer.wait_closed()


def test_goaway_says_which_calls_were_not_seen(start_client: StartClient) -> None:
    with HostileServer(_goaway_after_the_first) as server:
        client = start_client(server.address)
        first = client.begin_unary(PATH, b"x", timeout_ms=60_000)
        second = client.stream(PATH, timeout_ms=60_000)
        client.send(second, b"x")
        client.half_close(second)
        assert client.finish(first).messages == [b"first"]
        ended = client.finish(second)
    assert ended.code == "UNAVAILABLE"
    assert ended.done is not None
    assert ended.done["not_processed"]


def test_a_unary_call_that_was_not_seen_is_repeated(start_client: StartClient) -> None:
    def behave(peer: Peer) -> None:
        if server.connections == 1:
            _goaway_after_the_first(peer)
        else:
            _answer(_head, _data(message(b"second")), OK)(peer)

    with HostileServer(behave) as server:
        client = start_client(server.address, min_backoff_ms=20)
        numbers = [client.begin_unary(PATH, b"x", timeout_ms=60_000) for _ in range(2)]
        answers = [client.finish(number) for number in numbers]
    assert [answer.messages for answer in answers] == [[b"first"], [b"second"]]


def test_a_server_that_refuses_everything_is_not_asked_for_ever(start_client: StartClient) -> None:
    asked = []

    def behave(peer: Peer) -> None:
        peer.greet()
        while True:
            stream = peer.wait_call()
            asked.append(stream)
            peer.send(frame(RST_STREAM, 0, stream, struct.pack(">I", 7)))

    with HostileServer(behave) as server:
        events = start_client(server.address).unary(PATH, b"x", timeout_ms=60_000)
    assert (events.code, len(asked)) == ("UNAVAILABLE", 11)  # ten more times, with growing pauses


def test_a_server_that_always_hangs_up_is_not_hammered(start_client: StartClient) -> None:
    with HostileServer(lambda peer: peer.greet()) as server:
        client = start_client(server.address, min_backoff_ms=200)
        started = time.monotonic()
        while time.monotonic() < started + 2:
            assert client.unary(PATH, b"x", timeout_ms=60_000).code in {"UNAVAILABLE", "OK"}
        # Counted over the whole time: a server that is slow to accept sees two attempts close together.
        took_s, connections = time.monotonic() - started, server.connections
    assert 2 <= connections <= 2 + took_s / 0.1
