"""Streaming calls by grpcio: order, backpressure in both directions, early ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import grpc
import grpc.aio
import pytest

from tests.integration.rpc.conftest import StartServer
from tests.integration.rpc.rpc_server import UNLIMITED, EchoServer, method, wait_until

TIMEOUT_S = 60.0
MEBIBYTE = 1024 * 1024


def test_client_stream(channel: grpc.Channel) -> None:
    collect = channel.stream_unary(method("Collect"))
    assert collect((b"x" * size for size in range(2000)), timeout=TIMEOUT_S) == str(sum(range(2000))).encode()
    assert collect(iter(()), timeout=TIMEOUT_S) == b"0"
    assert collect((bytes(8 * MEBIBYTE) for _ in range(8)), timeout=TIMEOUT_S) == str(64 * MEBIBYTE).encode()


@pytest.mark.parametrize(("count", "size"), [(0, 0), (1, 0), (100_000, 1), (1000, 100_000), (5, 20 * MEBIBYTE)])
def test_server_stream(channel: grpc.Channel, count: int, size: int) -> None:
    answers = channel.unary_stream(method("Count"))(b"%d %d" % (count, size), timeout=TIMEOUT_S)
    assert [len(answer) for answer in answers] == [size] * count


@pytest.mark.parametrize("name", ["Bidi", "BidiThreaded"])
def test_messages_come_back_in_order(channel: grpc.Channel, name: str) -> None:
    sent = [b"%d" % number * (number % 50) for number in range(5000)]
    assert list(channel.stream_stream(method(name))(iter(sent), timeout=TIMEOUT_S)) == sent


def test_ping_pong_keeps_the_stream_open(channel: grpc.Channel) -> None:
    """Each message is sent only after the answer to the one before."""
    answered = threading.Semaphore(0)

    def requests() -> Iterator[bytes]:
        for number in range(200):
            yield b"%d" % number
            answered.acquire(timeout=TIMEOUT_S)

    for number, answer in enumerate(channel.stream_stream(method("BidiThreaded"))(requests(), timeout=TIMEOUT_S)):
        assert answer == b"%d" % number
        answered.release()


def test_trailers_after_a_stream(channel: grpc.Channel) -> None:
    call = channel.stream_stream(method("Bidi"))(
        iter([b"1"]), metadata=(("x-status", "10"), ("x-message-bin", b"why"), ("echo-a", "b")), timeout=TIMEOUT_S
    )
    assert next(call) == b"1"
    with pytest.raises(grpc.RpcError) as raised:
        next(call)
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.ABORTED, "why")
    assert [(item.key, item.value) for item in call.trailing_metadata()] == [("echo-a", "b")]


def test_early_error_ends_a_client_that_still_sends(channel: grpc.Channel) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(100_000)

    with pytest.raises(grpc.RpcError) as raised:
        list(channel.stream_stream(method("EarlyError"))(endless(), timeout=TIMEOUT_S))
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert raised.value.details() == "the first message was enough"


def test_unary_method_refuses_two_messages_and_none(channel: grpc.Channel) -> None:
    for requests in ([b"1", b"2"], []):
        with pytest.raises(grpc.RpcError) as raised:
            channel.stream_unary(method("Unary"))(iter(requests), timeout=TIMEOUT_S)
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "exactly one message" in (raised.value.details() or "")


def test_deadline_of_a_stream(channel: grpc.Channel) -> None:
    hold = threading.Event()
    bidi = channel.stream_stream(method("Bidi"))
    assert list(bidi(iter([b"connected"]), timeout=TIMEOUT_S)) == [b"connected"]

    def requests() -> Iterator[bytes]:
        yield b"1"
        hold.wait(TIMEOUT_S)

    call = bidi(requests(), timeout=5)
    assert next(call) == b"1"
    with pytest.raises(grpc.RpcError) as raised:
        next(call)
    hold.set()
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_slow_reader_slows_the_server(server: EchoServer) -> None:
    """A client that does not read must not make the server pile up its answers."""
    before = server.resident_bytes()
    async with grpc.aio.insecure_channel(server.address, options=UNLIMITED) as opened:
        call = opened.unary_stream(method("Count"))(b"100000 10000")
        first = await call.read()
        assert len(first) == 10_000
        sent = -1
        while sent != (now := server.stats()["bytes_sent"]):  # until nothing moves any more
            sent = now
            await asyncio.sleep(0.3)
        assert server.resident_bytes() - before < 64 * MEBIBYTE
        received = 1
        while await call.read() is not grpc.aio.EOF:
            received += 1
        assert received == 100_000


async def test_slow_handler_slows_the_client(server: EchoServer) -> None:
    """The echo waits for its own answers to be read: a client that only writes is stopped by flow control."""
    before = server.resident_bytes()
    async with grpc.aio.insecure_channel(server.address, options=UNLIMITED) as opened:
        call = opened.unary_stream(method("Count"))(b"200 1000000")
        await call.read()
        call.cancel()
    wait_until(lambda: server.stats()["calls_open"] == 0, "the cancelled stream is gone")
    assert server.resident_bytes() - before < 128 * MEBIBYTE


async def test_a_stream_whose_answers_nobody_takes_holds_up_no_other(start_server: StartServer) -> None:
    """Not even on the same connection: it is stopped before it has used up what all streams share."""
    server = start_server(max_pending_bytes=16 * MEBIBYTE)
    async with grpc.aio.insecure_channel(server.address, options=UNLIMITED) as opened:
        stuck = opened.stream_stream(method("Bidi"))(timeout=2 * TIMEOUT_S)

        async def flood() -> None:
            for _ in range(100):
                await stuck.write(bytes(2 * MEBIBYTE))

        flooding = asyncio.create_task(flood())
        sent = -1
        while sent != (now := server.stats()["bytes_received"]) or now < MEBIBYTE:  # until nothing moves any more
            sent = now
            await asyncio.sleep(0.3)
        for size in (10, MEBIBYTE):
            for _ in range(20):
                answer = await opened.unary_unary(method("Unary"))(bytes(size), timeout=TIMEOUT_S)
                assert len(answer) == size
        received = 0
        while received < 100:
            assert len(await stuck.read()) == 2 * MEBIBYTE
            received += 1
        await flooding
        await stuck.done_writing()
        assert await stuck.read() is grpc.aio.EOF


async def test_many_streams_at_once(server: EchoServer) -> None:
    async def one(opened: grpc.aio.Channel, number: int) -> None:
        async def requests() -> AsyncIterator[bytes]:
            for index in range(20):
                yield b"%d/%d" % (number, index)

        answers = [
            answer async for answer in opened.stream_stream(method("BidiThreaded"))(requests(), timeout=TIMEOUT_S)
        ]
        assert answers == [b"%d/%d" % (number, index) for index in range(20)]

    async with grpc.aio.insecure_channel(server.address, options=UNLIMITED) as opened:
        await asyncio.gather(*(one(opened, number) for number in range(300)))
