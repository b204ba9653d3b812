"""How a stream to a broker can end under what was asked over it."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest

from serving._proto import broker_pb2 as bpb
from serving.errors import FailedPrecondition
from serving.sdk.exchange import Exchange
from tests.support.waiting import eventually_async


class BrokenCall:
    """Of a connection that ends with this error, once something was said."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self._said = asyncio.Event()

    async def write(self, _: bpb.ExchangeRequest) -> None:
        self._said.set()

    async def read(self) -> bpb.ExchangeReply:
        await self._said.wait()
        raise self._error

    def cancel(self) -> None: ...


class BrokenStub:
    def __init__(self, error: Exception) -> None:
        self._error = error

    def Exchange(self) -> BrokenCall:  # noqa: N802
        return BrokenCall(self._error)


def rpc_error(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details, "")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (rpc_error(grpc.StatusCode.UNAVAILABLE, "Socket closed"), grpc.StatusCode.UNAVAILABLE),
        # What grpc.aio says where a message was being written as the connection went: it may be done, as above.
        (rpc_error(grpc.StatusCode.INTERNAL, "Internal error from Core"), grpc.StatusCode.UNAVAILABLE),
        (rpc_error(grpc.StatusCode.INTERNAL, "internal error, logged as 1"), grpc.StatusCode.INTERNAL),
    ],
)
async def test_a_connection_that_goes_is_told_as_one(error: Exception, code: grpc.StatusCode) -> None:
    made = Exchange(BrokenStub(error))
    asked = [made.call("Get", bpb.GetRequest(ticket=str(number)), 30) for number in range(3)]
    for answer in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(answer, grpc.aio.AioRpcError)
        assert answer.code() is code


async def test_another_fault_reaches_who_asked() -> None:
    made = Exchange(BrokenStub(ValueError("not foreseen")))
    with pytest.raises(ValueError, match="not foreseen"):
        await made.call("Get", bpb.GetRequest(ticket="j.1.s"), 30)


class StandingCall:
    """Of a broker that has read nothing since the first message."""

    def __init__(self) -> None:
        self.said: list[bpb.ExchangeRequest] = []
        self.reads = asyncio.Event()

    async def write(self, message: bpb.ExchangeRequest) -> None:
        self.said.append(message)
        await self.reads.wait()

    async def read(self) -> bpb.ExchangeReply:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    def cancel(self) -> None: ...


class StandingStub:
    def __init__(self) -> None:
        self.call = StandingCall()
        self.called = 0

    def Exchange(self) -> StandingCall:  # noqa: N802
        return self.call

    async def Submit(self, _: bpb.SubmitRequest, *, timeout: float) -> bpb.SubmitReply:  # noqa: N802, ARG002
        self.called += 1
        return bpb.SubmitReply(ticket="by a call")


def large(number: int) -> bpb.SubmitRequest:
    return bpb.SubmitRequest(deployment=str(number), request=bpb.Request(infer=bytes(60_000)))


async def test_what_nobody_waits_for_is_not_said_later() -> None:
    stub = StandingStub()
    made = Exchange(stub)
    asked = [asyncio.create_task(made.call("Submit", large(number), 60)) for number in range(20)]
    await eventually_async(lambda: bool(stub.call.said), what="the first ones are said")
    for one in asked:
        one.cancel()
    await asyncio.wait(asked)
    (first,) = stub.call.said
    said = [first.id, *(one.id for one in first.more)]
    assert len(said) == 4, "what goes into one message"
    stub.call.reads.set()
    await eventually_async(lambda: len(stub.call.said) == 2, what="it reads again")
    rest = [stub.call.said[1], *stub.call.said[1].more]
    assert [one.id for one in rest] == said
    assert all(one.HasField("withdraw") for one in rest)
    assert made._said_bytes == 0
    await made.close()


async def test_what_is_said_and_not_read_is_bounded() -> None:
    stub = StandingStub()
    made = Exchange(stub)
    asked = [asyncio.create_task(made.call("Submit", large(number), 60)) for number in range(200)]
    await eventually_async(lambda: stub.called > 0, what="it is above the bound")
    assert made._said_bytes <= 4 << 20
    assert stub.called + len(made._asked) == 200
    assert {(await one).ticket for one in asked if one.done()} == {"by a call"}
    await made.close()
    await asyncio.wait(asked)


class ClosedStub:
    """Of a channel that was closed: grpc.aio refuses to open a call."""

    def Exchange(self) -> StandingCall:  # noqa: N802
        raise RuntimeError("Channel is closed.")


async def test_a_stream_that_cannot_be_opened_is_told_each_time() -> None:
    made = Exchange(ClosedStub())
    for _ in range(2):
        with pytest.raises(RuntimeError, match="closed"):
            await asyncio.wait_for(made.call("Get", bpb.GetRequest(ticket="j.1.s"), 60), 30)


async def test_a_close_before_the_streams_first_step() -> None:
    made = Exchange(StandingStub())
    asking = asyncio.create_task(made.call("Get", bpb.GetRequest(ticket="j.1.s"), 60))
    await asyncio.sleep(0)
    assert made._running is not None, "it is made in this turn, and begins in the next"
    await made.close()
    await asyncio.wait([asking], timeout=30)
    assert asking.cancelled()
    with pytest.raises(FailedPrecondition, match="is closed"):
        await made.call("Get", bpb.GetRequest(ticket="j.1.s"), 60)
