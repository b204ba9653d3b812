"""Unary calls by grpcio: sizes, metadata, statuses, deadlines, cancels, compression, limits."""

from __future__ import annotations

import concurrent.futures
import os
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.integration.rpc.conftest import StartServer
from tests.integration.rpc.rpc_server import UNLIMITED, EchoServer, echo, method, wait_logged, wait_until

TIMEOUT_S = 60.0
CODES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


@pytest.mark.parametrize("name", ["Unary", "Threaded", "Sliced"])
@pytest.mark.parametrize("size", [0, 1, 4, 1000, 16_379, 65_535, 65_536, 1_000_000])
def test_messages_of_every_size_come_back(channel: grpc.Channel, name: str, size: int) -> None:
    request = os.urandom(size)
    assert echo(channel, name)(request, timeout=TIMEOUT_S) == request


@pytest.mark.parametrize("name", ["Unary", "Threaded"])
def test_large_messages_come_back(channel: grpc.Channel, name: str) -> None:
    request = os.urandom(64 * 1024 * 1024)
    assert echo(channel, name)(request, timeout=TIMEOUT_S) == request


def test_metadata_comes_back_as_trailers(channel: grpc.Channel) -> None:
    sent = (("echo-text", "a b, c"), ("echo-bytes-bin", b"\x00\xff,\n"), ("echo-bytes-bin", b""), ("echo-empty", ""))
    _, call = echo(channel).with_call(b"x", metadata=sent, timeout=TIMEOUT_S)
    assert [(item.key, item.value) for item in call.trailing_metadata()] == list(sent)


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
def test_every_status_with_any_text(channel: grpc.Channel, code: grpc.StatusCode) -> None:
    text = "größe 100% \n\t\x01 ✓ ~"
    metadata = (("x-status", str(code.value[0])), ("x-message-bin", text.encode()), ("echo-also", "1"))
    with pytest.raises(grpc.RpcError) as raised:
        echo(channel)(b"x", metadata=metadata, timeout=TIMEOUT_S)
    assert (raised.value.code(), raised.value.details()) == (code, text)
    assert ("echo-also", "1") in [(item.key, item.value) for item in raised.value.trailing_metadata()]


def test_unknown_method_is_unimplemented(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        echo(channel, "Missing")(b"", timeout=TIMEOUT_S)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "/mesh.test.Echo/Missing" in (raised.value.details() or "")


def test_exception_of_a_handler_is_internal_without_detail(server: EchoServer, channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        echo(channel, "Throw")(b"", timeout=TIMEOUT_S)
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    wait_logged(server, "the secret inner workings")


def test_trailers_that_cannot_be_sent_are_left_out(server: EchoServer, channel: grpc.Channel) -> None:
    assert echo(channel, "BadTrailers")(b"", timeout=TIMEOUT_S) == b"answer"
    wait_logged(server, "'Bad Key'")


def cancelled(server: EchoServer) -> int:
    count: int = server.command("cancelled")["cancelled"]
    return count


def test_deadline_reaches_the_handler(server: EchoServer, channel: grpc.Channel) -> None:
    assert echo(channel)(b"connected", timeout=TIMEOUT_S) == b"connected"
    before = cancelled(server)
    call = echo(channel, "Never").future(b"", timeout=3)
    wait_until(lambda: server.stats()["calls_open"] == 1 or call.done(), "the call is open")
    with pytest.raises(grpc.RpcError) as raised:
        call.result()
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: cancelled(server) == before + 1, "the handlers saw their calls end")


def test_cancel_reaches_the_handler(server: EchoServer, channel: grpc.Channel) -> None:
    before = cancelled(server)
    calls = [echo(channel, "Never").future(b"") for _ in range(20)]
    wait_until(lambda: server.stats()["calls_open"] == 20, "20 calls are open")
    for call in calls:
        call.cancel()
    wait_until(lambda: cancelled(server) == before + 20, "the handlers saw their calls end")
    wait_until(lambda: server.stats()["calls_open"] == 0, "0 calls are open")


def test_lost_connection_reaches_the_handler(server: EchoServer) -> None:
    before = cancelled(server)
    with server.channel() as doomed:
        calls = [echo(doomed, "Never").future(b"") for _ in range(5)]
        wait_until(lambda: server.stats()["calls_open"] == 5, "5 calls are open")
    wait_until(lambda: cancelled(server) == before + 5, "the handlers saw their calls end")
    wait_until(lambda: all(call.done() for call in calls), "the calls are over here too")


def test_a_thousand_calls_at_once(server: EchoServer, channel: grpc.Channel) -> None:
    requests = [b"%d" % number * 10 for number in range(1000)]
    calls = [echo(channel, "Threaded").future(request, timeout=TIMEOUT_S) for request in requests]
    assert [call.result() for call in calls] == requests
    assert server.stats()["protocol_errors"] == 0


async def test_a_thousand_calls_at_once_by_asyncio(server: EchoServer) -> None:
    async with grpc.aio.insecure_channel(server.address, options=UNLIMITED) as opened:
        call = opened.unary_unary(method("Unary"))
        answers = [call(b"%d" % number, timeout=TIMEOUT_S) for number in range(1000)]
        assert [await answer for answer in answers] == [b"%d" % number for number in range(1000)]


def test_many_connections_on_several_loops(server: EchoServer) -> None:
    def one(number: int) -> bytes:
        with server.channel() as own:
            return echo(own)(b"%d" % number, timeout=TIMEOUT_S)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert list(pool.map(one, range(100))) == [b"%d" % number for number in range(100)]


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
@pytest.mark.parametrize("size", [0, 1, 100_000, 5_000_000])
def test_compressed_requests_are_understood(channel: grpc.Channel, compression: grpc.Compression, size: int) -> None:
    request = b"abc" * (size // 3)
    assert echo(channel)(request, timeout=TIMEOUT_S, compression=compression) == request


@pytest.mark.parametrize(
    ("answers", "request_compression", "expected"),
    [
        ("none", grpc.Compression.Gzip, None),
        ("gzip", grpc.Compression.NoCompression, "gzip"),
        ("deflate", grpc.Compression.NoCompression, "deflate"),
        ("like_request", grpc.Compression.Gzip, "gzip"),
        ("like_request", grpc.Compression.NoCompression, None),
    ],
)
def test_answers_are_compressed_as_configured(
    start_server: StartServer, answers: str, request_compression: grpc.Compression, expected: str | None
) -> None:
    server = start_server(compression=answers)
    request = b"z" * 1_000_000
    with server.channel() as own:
        assert echo(own)(request, timeout=TIMEOUT_S, compression=request_compression) == request
        assert b"".join(own.unary_stream(method("Count"))(b"100 1000", timeout=TIMEOUT_S)) == b"x" * 100_000
    sent = server.stats()["bytes_sent"]
    assert sent < 200_000 if expected else sent > 1_000_000


def test_bomb_of_gzip_is_refused(start_server: StartServer) -> None:
    server = start_server(max_message_bytes=1_000_000)
    with server.channel() as own:
        with pytest.raises(grpc.RpcError) as raised:
            echo(own)(b"\0" * 50_000_000, timeout=TIMEOUT_S, compression=grpc.Compression.Gzip)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "1000000" in (raised.value.details() or "")
        assert echo(own)(b"alive", timeout=TIMEOUT_S) == b"alive"


def test_limit_of_messages_names_both_sizes(start_server: StartServer) -> None:
    server = start_server(max_message_bytes=1000)
    with server.channel() as own:
        assert echo(own)(b"x" * 1000, timeout=TIMEOUT_S) == b"x" * 1000
        for size in (1001, 50_000_000):
            with pytest.raises(grpc.RpcError) as raised:
                echo(own)(b"x" * size, timeout=TIMEOUT_S)
            assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert str(size) in (raised.value.details() or "")
            assert "1000 bytes" in (raised.value.details() or "")
        assert echo(own)(b"alive", timeout=TIMEOUT_S) == b"alive"


def test_budget_of_half_received_messages(start_server: StartServer) -> None:
    server = start_server(max_receiving_bytes=1_000_000)
    with server.channel() as own:
        with pytest.raises(grpc.RpcError) as raised:
            echo(own)(b"x" * 5_000_000, timeout=TIMEOUT_S)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "1000000" in (raised.value.details() or "")
        assert echo(own)(b"y" * 900_000, timeout=TIMEOUT_S) == b"y" * 900_000


def test_an_answer_sent_before_its_end_waits_for_it(start_server: StartServer) -> None:
    server = start_server()
    with server.channel() as own:
        call = echo(own, "SendAndPark").future(b"answer", timeout=TIMEOUT_S)
        wait_until(lambda: server.stats()["calls_open"] == 1, "the call is open")
        # Answered by the same threads, so the loop has looked at what was sent.
        assert echo(own, "Threaded")(b"x", timeout=TIMEOUT_S) == b"x"
        assert not call.done()
        assert echo(own, "FinishParked")(b"x", timeout=TIMEOUT_S) == b"x"
        assert call.result() == b"answer"


def test_too_much_metadata_is_refused(start_server: StartServer) -> None:
    server = start_server(max_metadata_bytes=4096)
    big: list[tuple[str, Any]] = [("grpc.max_metadata_size", 1 << 20), ("grpc.absolute_max_metadata_size", 1 << 20)]
    with server.channel(*big) as own:
        with pytest.raises(grpc.RpcError) as raised:
            echo(own)(b"x", metadata=(("x-big", "v" * 6000),), timeout=TIMEOUT_S)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert echo(own)(b"alive", timeout=TIMEOUT_S) == b"alive"
