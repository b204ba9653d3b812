"""Peers that mean harm: the connection ends, memory stays bounded, others are served."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable
from functools import partial

import grpc
import pytest

from tests.integration.rpc.conftest import StartServer
from tests.integration.rpc.raw_http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    TIMEOUT_S,
    WINDOW_UPDATE,
    RawPeer,
    frame,
    literal,
    message,
    request_headers,
)
from tests.integration.rpc.rpc_server import EchoServer, echo, method, wait_logged, wait_until

MEBIBYTE = 1024 * 1024


def assert_alive(server: EchoServer) -> None:
    with server.channel() as own:
        assert echo(own)(b"alive", timeout=TIMEOUT_S) == b"alive"


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS to a server without
        b"\0" * 100,
        PREFACE[:-1] + b"X",
        PREFACE + frame(PING, 0, 0, bytes(8)),  # SETTINGS must come first
        PREFACE + b"\xff" * 100,
    ],
    ids=["http1", "tls", "zeros", "preface", "no-settings", "ones"],
)
def test_bad_preface_closes(server: EchoServer, data: bytes) -> None:
    with RawPeer(server.port, preface=False) as peer:
        peer.try_send(data)
        peer.goaway()  # returns only when the server has closed
    assert_alive(server)


@pytest.mark.parametrize(
    "data",
    [
        frame(DATA, 0, 0, b"x"),
        frame(DATA, 0, 1, b"x"),
        frame(HEADERS, END_HEADERS, 0, b""),
        frame(HEADERS, END_HEADERS, 2, literal(request_headers())),
        frame(HEADERS, 0, 1, literal(request_headers())) + frame(PING, 0, 0, bytes(8)),
        frame(CONTINUATION, END_HEADERS, 1, b""),
        frame(SETTINGS, 0, 0, b"12345"),
        frame(SETTINGS, 0, 1),
        frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0xFFFFFFFF)),
        frame(PING, 0, 0, b"123"),
        frame(PING, 0, 5, bytes(8)),
        frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 0)),
        frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 0x7FFFFFFF)) * 2,
        frame(RST_STREAM, 0, 1, struct.pack(">I", 8)),
        frame(PUSH_PROMISE, END_HEADERS, 1, struct.pack(">I", 2)),
        frame(GOAWAY, 0, 1, bytes(8)),
        frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"),
        b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + bytes(1000),
    ],
    ids=lambda data: data[:12].hex(),
)
def test_bad_frames_close_the_connection(server: EchoServer, data: bytes) -> None:
    with RawPeer(server.port) as peer:
        peer.try_send(data)
        code = peer.goaway()
        assert code not in (0, None)
    assert_alive(server)


def flood(server: EchoServer, make: Callable[[int], bytes], *, count: int = 200_000, batch: int = 100) -> int | None:
    """Sends until the server closes, or all of it; returns the code of its GOAWAY. Fails when it does not close."""
    with RawPeer(server.port) as peer:
        for number in range(0, count, batch):
            if not peer.try_send(b"".join(make(index) for index in range(number, number + batch))):
                break
        try:
            return peer.goaway()
        except TimeoutError:
            pytest.fail("the server took the whole flood and kept the connection")


HEADER_BLOCK = literal(request_headers("/mesh.test.Echo/Never"))


@pytest.mark.parametrize(
    "make",
    [
        lambda n: (
            frame(HEADERS, END_HEADERS, 2 * n + 1, HEADER_BLOCK) + frame(RST_STREAM, 0, 2 * n + 1, struct.pack(">I", 8))
        ),
        lambda _: frame(PING, 0, 0, bytes(8)),
        lambda _: frame(SETTINGS, 0, 0),
        lambda _: frame(SETTINGS, 0, 0, struct.pack(">HI", 1, 4096) * 10),
        lambda _: frame(PRIORITY, 0, 1, bytes([0, 0, 0, 3, 5])),
        lambda n: (frame(HEADERS, END_HEADERS, 1, HEADER_BLOCK) if n == 0 else b"") + frame(DATA, 0, 1, b"") * 5,
        # "MadeYouReset": frames that make the server itself reset the streams
        lambda n: frame(HEADERS, END_HEADERS, 2 * n + 1, HEADER_BLOCK) + frame(WINDOW_UPDATE, 0, 2 * n + 1, bytes(4)),
    ],
    ids=["rapid-reset", "ping", "settings", "long-settings", "priority", "empty-data", "made-you-reset"],
)
def test_floods_end_the_connection(server: EchoServer, make: Callable[[int], bytes]) -> None:
    before = server.resident_bytes()
    code = flood(server, make)
    # PROTOCOL_ERROR: nghttp2 needs no second frame of that kind. None: our unread data had the kernel drop the GOAWAY
    assert code in (ENHANCE_YOUR_CALM, 1, None)
    wait_until(lambda: server.stats()["calls_open"] == 0, "no call is left")
    assert server.resident_bytes() - before < 64 * MEBIBYTE
    assert_alive(server)


def test_continuation_flood(server: EchoServer) -> None:
    start = frame(HEADERS, 0, 1, literal(request_headers()))
    code = flood(server, lambda n: (start if n == 0 else b"") + frame(CONTINUATION, 0, 1, b""))
    assert code not in (0, None) or server.stats()["calls_open"] == 0
    assert_alive(server)


def test_header_bomb(server: EchoServer) -> None:
    """One large header into the table, then thousands of one-byte references to it."""
    first = literal(request_headers()) + b"\x40\x01a" + b"\x7f\x81\x1e" + b"v" * 3968  # indexed, 3,968 bytes
    before = server.resident_bytes()
    with RawPeer(server.port) as peer:
        peer.try_send(frame(HEADERS, END_HEADERS, 1, first + b"\xbe" * 12_000))
        assert peer.goaway() in (ENHANCE_YOUR_CALM, 2, 9, None)
    assert server.resident_bytes() - before < 16 * MEBIBYTE
    assert_alive(server)


def test_lying_lengths_cost_no_memory(server: EchoServer) -> None:
    before = server.resident_bytes()
    with RawPeer(server.port) as peer:
        for number in range(500):
            peer.request(2 * number + 1, request_headers(), message(b"x", declared=2**31 - 1), end=False)
        wait_until(lambda: server.stats()["calls_open"] == 500, "500 half-received messages")
        assert server.resident_bytes() - before < 64 * MEBIBYTE
    assert_alive(server)


def test_more_streams_than_allowed_are_refused(start_server: StartServer) -> None:
    server = start_server(max_concurrent_streams=10)
    with RawPeer(server.port) as peer:
        for number in range(20):
            peer.request(2 * number + 1, request_headers("/mesh.test.Echo/Never"), message(b"x"))
        refused = []
        while len(refused) < 10 and (received := peer.next_frame()) is not None:
            if received.kind == RST_STREAM:
                refused.append((received.stream, int.from_bytes(received.payload, "big")))
        assert refused == [(2 * number + 1, 7) for number in range(10, 20)]
        assert server.stats()["calls_open"] == 10


@pytest.mark.parametrize("part", [b"", PREFACE[:10], PREFACE, PREFACE + frame(SETTINGS, 0, 0)[:5]])
def test_slow_handshakes_are_ended(start_server: StartServer, part: bytes) -> None:
    server = start_server(handshake_timeout_ms=300)
    with RawPeer(server.port, preface=False) as peer:
        peer.send(part)
        peer.goaway()
    wait_until(lambda: server.stats()["connections_open"] == 0, "the connection is gone")
    wait_logged(server, "took too long")


def test_slow_header_blocks_are_ended(start_server: StartServer) -> None:
    server = start_server(handshake_timeout_ms=300)

    def ended_for_its_headers() -> bool:
        """Not if the machine stopped for so long before they came: then it is ended for its handshake."""
        with RawPeer(server.port) as peer:
            peer.try_send(frame(HEADERS, 0, 1, literal(request_headers())))
            peer.goaway()
        return "a header block took too long" in server.log_text()

    wait_until(ended_for_its_headers, "a connection that is ended for its header block")


@pytest.mark.parametrize("body", [b"", b"\0", message(b"x", declared=100)])
def test_messages_without_progress_are_ended(start_server: StartServer, body: bytes) -> None:
    server = start_server(idle_message_timeout_ms=300)
    with RawPeer(server.port) as peer:
        peer.request(1, request_headers(), *([body] if body else []), end=False)
        answer = peer.answer(1)
        assert answer["grpc-status"] == "1"
        assert "300 ms" in answer["grpc-message"]


def test_peer_that_answers_no_ping_is_closed(start_server: StartServer) -> None:
    server = start_server(keepalive_interval_ms=200, keepalive_timeout_ms=300)
    with RawPeer(server.port) as peer:
        peer.goaway()
    wait_logged(server, "no answer to a keepalive ping")


def test_unknown_frames_are_no_sign_of_life(start_server: StartServer) -> None:
    """They are skipped at no cost, but they do not keep a connection open."""
    server = start_server(keepalive_interval_ms=200, keepalive_timeout_ms=300)
    with RawPeer(server.port) as peer:
        while peer.try_send(frame(0x77, 0, 0, b"unknown")):
            pass
    wait_logged(server, "no answer to a keepalive ping")


def test_peer_that_never_reads_is_bounded_and_ended(start_server: StartServer) -> None:
    """It asks for a lot, with huge windows, and takes nothing from its socket."""
    server = start_server(max_pending_bytes=8 * MEBIBYTE, keepalive_interval_ms=1000, keepalive_timeout_ms=1000)
    before = server.resident_bytes()
    body = message(bytes(MEBIBYTE))
    with RawPeer(server.port, preface=False, receive_buffer=4096) as peer:
        peer.send(PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0x7FFFFFFF)))
        peer.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 0x7FFFFFFF - 65535)))
        peer.socket.settimeout(1.0)
        try:
            for number in range(500):
                out = frame(HEADERS, END_HEADERS, 2 * number + 1, literal(request_headers()))
                for at in range(0, len(body), 16384):
                    last = at + 16384 >= len(body)
                    out += frame(DATA, END_STREAM if last else 0, 2 * number + 1, body[at : at + 16384])
                if not peer.try_send(out):
                    break
        except TimeoutError:
            pass  # the server reads no more
        assert server.resident_bytes() - before < 128 * MEBIBYTE
        wait_until(lambda: server.stats()["connections_open"] == 0, "the connection is given up")
    assert_alive(server)


class PatientPeer:
    """Sends echo requests of one MiB each, only as much as the server's windows allow."""

    PIECE = 16384

    def __init__(self, peer: RawPeer) -> None:
        self.peer = peer
        self.allowed = {0: 65535}
        self.sent = 0
        self.answered = 0
        peer.send(PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0)))  # no answer may come

    def read_until(self, ready: Callable[[], bool]) -> bool:
        """False when the socket's timeout passed without a frame."""
        try:
            while not ready():
                received = self.peer.next_frame()
                assert received is not None, "the server closed the connection"
                if received.kind == WINDOW_UPDATE:
                    self.allowed[received.stream] += int.from_bytes(received.payload, "big")
                self.answered += received.kind == HEADERS and bool(received.flags & END_STREAM)
        except TimeoutError:
            return False
        return True

    def _has_room(self, stream: int) -> bool:
        return min(self.allowed[0], self.allowed[stream]) >= self.PIECE

    def send_until(self, count: int, *, take_answers: bool = False) -> bool:
        """Goes on until `count` requests are out; False when the server wants no more."""
        body = message(bytes(MEBIBYTE - 5))
        while self.sent < count * MEBIBYTE:
            stream, at = 2 * (self.sent // MEBIBYTE) + 1, self.sent % MEBIBYTE
            if stream not in self.allowed:
                self.allowed[stream] = 256 * 1024
                self.peer.send(frame(HEADERS, END_HEADERS, stream, literal(request_headers())))
            if not self.read_until(partial(self._has_room, stream)):
                return False
            last = at + self.PIECE == MEBIBYTE
            self.peer.send(frame(DATA, END_STREAM if last else 0, stream, body[at : at + self.PIECE]))
            self.allowed[0] -= self.PIECE
            self.allowed[stream] -= self.PIECE
            self.sent += self.PIECE
            if take_answers and last and not self.read_until(lambda: self.answered == self.sent // MEBIBYTE):
                return False
        return True


def test_requests_of_a_peer_that_takes_no_answers_do_not_pile_up(start_server: StartServer) -> None:
    """It reads its socket, but its stream windows are closed: the server must not take requests for ever."""
    server = start_server(max_pending_bytes=4 * MEBIBYTE)
    before = server.resident_bytes()
    with RawPeer(server.port, preface=False) as raw:
        peer = PatientPeer(raw)
        assert peer.read_until(lambda: peer.allowed[0] >= 16 * MEBIBYTE)
        raw.socket.settimeout(2.0)
        assert not peer.send_until(100), "the server took everything"
        assert peer.sent < 32 * MEBIBYTE
        assert server.resident_bytes() - before < 64 * MEBIBYTE
        raw.socket.settimeout(TIMEOUT_S)
        raw.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0x7FFFFFFF)))
        raw.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 0x7FFFFFFF - 65535)))
        assert peer.read_until(lambda: peer.answered == peer.sent // MEBIBYTE), "what it sent is answered"
        assert peer.send_until(100, take_answers=True), "and it may go on"
    assert_alive(server)


def test_connection_resets_at_any_moment(server: EchoServer) -> None:
    rng = random.Random(7)
    whole = PREFACE + frame(SETTINGS, 0, 0)
    for stream in range(1, 20, 2):
        whole += frame(HEADERS, END_HEADERS, stream, literal(request_headers("/mesh.test.Echo/Threaded")))
        whole += frame(DATA, END_STREAM, stream, message(b"x" * 1000))
    for _ in range(200):
        raw = socket.create_connection(("127.0.0.1", server.port))
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() sends RST
        raw.sendall(whole[: rng.randrange(len(whole))])
        raw.close()
    wait_until(lambda: server.stats()["calls_open"] == 0, "no call is left")
    assert_alive(server)


def test_random_bytes_and_mutated_traffic(server: EchoServer) -> None:
    """Thousands of bad peers, with good calls between them."""
    rng = random.Random(11)
    good = PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS, 1, literal(request_headers()))
    good += frame(DATA, END_STREAM, 1, message(b"payload" * 20)) + frame(PING, 0, 0, bytes(8))
    with server.channel() as own:
        for turn in range(1000):
            mutated = bytearray(good)
            for _ in range(rng.randint(1, 8)):
                mutated[rng.randrange(len(PREFACE), len(mutated))] = rng.randrange(256)
            with RawPeer(server.port, preface=False) as peer:
                peer.try_send(bytes(mutated) if turn % 5 else PREFACE + rng.randbytes(300))
            if turn % 50 == 0:
                assert echo(own)(b"good", timeout=TIMEOUT_S) == b"good"
    wait_until(lambda: server.stats()["connections_open"] <= 1, "the bad peers are gone")


def test_good_streams_go_on_beside_hostile_peers(server: EchoServer) -> None:
    with server.channel() as own:
        answers = own.unary_stream(method("Count"))(b"2000 10000", timeout=TIMEOUT_S)
        received = sum(len(next(answers)) for _ in range(500))
        assert flood(server, lambda _: frame(PING, 0, 0, bytes(8))) in (ENHANCE_YOUR_CALM, None)
        received += sum(len(answer) for answer in answers)
    assert received == 20_000_000
    assert isinstance(answers, grpc.Call)
    assert answers.code() is grpc.StatusCode.OK
