"""A renewal of a lease that is left at every moment, also while the server ends its stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from serving.config import EtcdConfig
from serving.errors import StoreUnavailable
from serving.store.calls import Calls
from serving.store.lease_thread import Renewals
from tests.support.moments import moments

LEASE = 5
TIMEOUT_S = 30.0


class NoLeader(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Ends every stream at its first message, as a member of etcd does that has lost its leader."""

    def service(self, _: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:  # type: ignore[type-arg]
        async def end(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:  # type: ignore[type-arg]
            async for _ in requests:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader")
            yield b""

        return grpc.stream_stream_rpc_method_handler(end)


@pytest.fixture
async def endpoint() -> AsyncIterator[str]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((NoLeader(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def test_who_leaves_a_renewal_always_hears_that_it_is_to_stop(endpoint: str) -> None:
    """Else a lease that is given back in that moment is renewed for ever, and who gives it back waits for ever."""
    calls = Calls(EtcdConfig(endpoints=(endpoint,)))

    async def renew() -> None:
        async with Renewals(calls) as renewals:
            await renewals.renew(LEASE, TIMEOUT_S)

    with pytest.raises(StoreUnavailable, match="no leader"):
        await renew()
    for _ in range(10):
        for moment in moments(turns=60, last=60, seconds=()):
            task = asyncio.ensure_future(renew())
            await moment.come(task)
            if task.done():
                task.exception()
                break
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled(), f"{moment}: {task.exception()!r}"
    await calls.close()
