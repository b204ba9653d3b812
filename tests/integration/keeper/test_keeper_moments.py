"""A keeper, ended at every moment of its start, its election and its work, with a client that watches it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import grpc
import grpc.aio
from keeper_harness import name_of, spec

from keeper.config import KeeperConfig
from keeper.process import Keeper
from serving._proto import keeper_pb2 as api
from serving._proto import keeper_pb2_grpc as rpc
from serving.local.etcd import EtcdCluster
from tests.support.moments import Moment, at_each, cut, ended, moments

# As all callers of keepers have one: a call that reaches gRPC's server in the moment in which it stops may get no
# answer from it, not even an end, as long as the process lives.
CALL_S = 10.0


def config_of(etcd: EtcdCluster) -> KeeperConfig:
    return KeeperConfig(etcd.config(), metrics_listen="127.0.0.1:0", stop_grace_s=0.05, adopt_grace_s=0.0)


async def test_a_keeper_can_be_ended_at_any_moment(etcd: EtcdCluster) -> None:
    async def scenario(moment: Moment) -> None:
        keeper = Keeper(config_of(etcd))
        await keeper.start()
        await cut(keeper.run(), moment)
        await ended(asyncio.create_task(keeper.stop()), moment)

    await at_each(scenario, moments(seconds=(0.01, 0.05)))


async def test_a_keeper_can_be_ended_at_any_moment_of_its_calls(etcd: EtcdCluster) -> None:
    async def scenario(moment: Moment) -> None:
        keeper = Keeper(config_of(etcd))
        await keeper.start()
        run = asyncio.create_task(keeper.run())
        async with grpc.aio.insecure_channel(keeper.address) as channel:
            stub = rpc.KeeperStub(channel)  # type: ignore[no-untyped-call]

            async def deploy() -> None:
                await stub.Deploy(api.DeployRequest(spec=spec()), timeout=CALL_S)
                await stub.DeleteApplication(name_of(), timeout=CALL_S)

            async def watch() -> None:
                async for _ in stub.WatchApplications(api.WatchApplicationsRequest(), timeout=CALL_S):
                    continue

            async def use(work: object) -> None:
                with suppress(grpc.aio.AioRpcError):
                    await work  # type: ignore[misc]

            callers = [asyncio.create_task(use(work)) for work in (deploy(), watch())]
            await moment.come(run)
            run.cancel()
            await ended(run, moment)
            await ended(asyncio.create_task(keeper.stop()), moment)
            for caller in callers:
                await ended(caller, moment)
                assert caller.exception() is None

    await at_each(scenario, moments(turns=8, seconds=(0.01, 0.05, 0.15)))


async def test_a_silent_guest_of_the_page_holds_up_nobody(etcd: EtcdCluster) -> None:
    """One that says nothing, and one that reads nothing."""
    keeper = Keeper(config_of(etcd))
    await keeper.start()
    host, _, port = keeper.metrics_address.rpartition(":")
    _, says_nothing = await asyncio.open_connection(host, int(port))
    _, reads_nothing = await asyncio.open_connection(host, int(port), limit=1)
    reads_nothing.write(b"GET /metrics HTTP/1.1\r\n\r\n")
    await ended(asyncio.create_task(keeper.stop()), Moment())
    says_nothing.close()
    reads_nothing.close()
