"""Requests that break gRPC's rules, on connections that keep HTTP/2's: each gets a precise answer."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import pytest

from tests.integration.rpc.raw_http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    RawPeer,
    frame,
    literal,
    message,
    request_headers,
)
from tests.integration.rpc.rpc_server import EchoServer, wait_until

OK, INVALID_ARGUMENT, UNIMPLEMENTED, INTERNAL = "0", "3", "12", "13"


@pytest.fixture
def peer(server: EchoServer) -> Iterator[RawPeer]:
    with RawPeer(server.port) as opened:
        yield opened
        # Whatever was wrong before: the connection goes on to serve.
        opened.request(1001, request_headers(), message(b"still alive"))
        answer = opened.answer(1001)
        assert (answer["grpc-status"], answer["data"]) == (OK, message(b"still alive").decode("latin1"))


@pytest.mark.parametrize(
    ("changes", "http_status", "code", "text"),
    [
        ({"content_type": "application/json"}, "415", INTERNAL, "'application/json'"),
        ({"content_type": "application/grpcx"}, "415", INTERNAL, "'application/grpcx'"),
        ({"content_type": None}, "415", INTERNAL, "no content-type"),
        ({"method": "GET"}, "405", INTERNAL, "'GET'"),
        ({"te": None}, "400", INTERNAL, "te: trailers"),
        ({"path": "/mesh.test.Echo/Nothing"}, "200", UNIMPLEMENTED, "/mesh.test.Echo/Nothing"),
        ({"path": "/"}, "200", UNIMPLEMENTED, "'/'"),
        ({"path": "/" + "x" * 3000}, "200", UNIMPLEMENTED, "xxx"),
        ({"grpc_timeout": "soon"}, "200", INVALID_ARGUMENT, "'soon'"),
        ({"grpc_timeout": "123456789S"}, "200", INVALID_ARGUMENT, "'123456789S'"),
        ({"grpc_timeout": "-1S"}, "200", INVALID_ARGUMENT, "'-1S'"),
        ({"grpc_timeout": "0n"}, "200", "4", "deadline"),
        ({"grpc_encoding": "snappy"}, "200", UNIMPLEMENTED, "'snappy'"),
        ({"x_value_bin": "!!"}, "200", INVALID_ARGUMENT, "'x-value-bin'"),
    ],
)
def test_bad_headers(peer: RawPeer, changes: dict[str, str | None], http_status: str, code: str, text: str) -> None:
    peer.request(1, request_headers(**changes), message(b"x"))
    answer = peer.answer(1)
    assert (answer[":status"], answer["grpc-status"]) == (http_status, code)
    assert text in answer["grpc-message"]
    if code == UNIMPLEMENTED:
        assert answer["grpc-accept-encoding"] == "identity,deflate,gzip"


@pytest.mark.parametrize("content_type", ["application/grpc", "application/grpc+proto", "application/grpc;v=1"])
def test_good_content_types(peer: RawPeer, content_type: str) -> None:
    peer.request(1, request_headers(content_type=content_type), message(b"x"))
    assert peer.answer(1)["grpc-status"] == OK


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        (message(b"x", flag=2), INTERNAL, "flag 2"),
        (message(b"x", flag=1), INTERNAL, "names no grpc-encoding"),
        (message(b"x" * 10, declared=20), INTERNAL, "after 10 of 20 bytes"),
        (b"\0\0\0", INTERNAL, "3 of 5 bytes"),
        (b"", UNIMPLEMENTED, "exactly one message"),
        (message(b"a") + message(b"b"), UNIMPLEMENTED, "exactly one message"),
        (message(b"", declared=0xFFFFFFFF), "8", "4294967295"),
    ],
)
def test_bad_messages(peer: RawPeer, body: bytes, code: str, text: str) -> None:
    peer.request(1, request_headers(), body)
    answer = peer.answer(1)
    assert answer["grpc-status"] == code
    assert text in answer["grpc-message"]


@pytest.mark.parametrize("packed", [b"", b"rubbish", gzip.compress(b"whole")[:-3], gzip.compress(b"whole") + b"more"])
def test_bad_gzip(peer: RawPeer, packed: bytes) -> None:
    peer.request(1, request_headers(grpc_encoding="gzip"), message(packed, flag=1))
    answer = peer.answer(1)
    assert (answer["grpc-status"], answer["grpc-message"]) == (INTERNAL, "a received message is not valid gzip")


def test_request_in_chunks_of_one_byte(peer: RawPeer) -> None:
    out = frame(HEADERS, END_HEADERS, 1, literal(request_headers()))
    body = message(b"slowly")
    for at in range(len(body)):
        out += frame(DATA, END_STREAM if at == len(body) - 1 else 0, 1, body[at : at + 1])
    for at in range(len(out)):
        peer.send(out[at : at + 1])
    assert peer.answer(1)["data"] == body.decode("latin1")


def test_error_before_the_client_has_sent_all_stops_it(peer: RawPeer) -> None:
    """Trailers, and then RST_STREAM(NO_ERROR), as RFC 9113 wants it."""
    peer.request(1, request_headers(path="/no/such"), message(b"", declared=1_000_000), end=False)
    answer = peer.answer(1)
    assert answer["grpc-status"] == UNIMPLEMENTED
    reset = peer.next_frame()
    assert reset is not None
    assert (reset.kind, reset.stream, int.from_bytes(reset.payload, "big")) == (3, 1, 0)


def test_half_closed_streams_are_released(server: EchoServer) -> None:
    """A peer that opens streams and goes away in the middle of its messages."""
    with RawPeer(server.port) as peer:
        for number in range(100):
            peer.request(2 * number + 1, request_headers(), message(b"part", declared=50_000_000), end=False)
        wait_until(lambda: server.stats()["calls_open"] == 100, "a hundred calls are open")
    wait_until(lambda: server.stats()["calls_open"] == 0, "all calls are released")


def test_message_after_trailers_of_a_request(peer: RawPeer) -> None:
    """Trailers of a request are unusual, but legal: they end it."""
    out = frame(HEADERS, END_HEADERS, 1, literal(request_headers())) + frame(DATA, 0, 1, message(b"x"))
    peer.send(out + frame(HEADERS, END_HEADERS | END_STREAM, 1, literal([("x-more", "1")])))
    assert peer.answer(1)["grpc-status"] == OK
