"""How a stream to a broker can end under what was asked over it."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest

from serving._proto import broker_pb2 as bpb
from serving.sdk.exchange import Exchange


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
