"""The SDK's clients, left and closed at every moment of a call."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sdk_mesh import application

from serving import MeshClient
from serving._proto import keeper_pb2 as kpb
from serving._proto import records_pb2 as pb
from serving.config import EtcdConfig
from serving.errors import FailedPrecondition, MeshError, Unavailable
from serving.local.etcd import EtcdCluster
from serving.local.ports import free_ports
from serving.sdk import AsyncMeshClient, Connection
from serving.sdk.keepers import Keepers
from serving.store import EtcdClient, keys
from serving.store.records import encode
from tests.support.etcd_server import running_etcd
from tests.support.moments import Moment, at_each, ended, moments, turn_of

LONG_S = 90.0
PROMPT_S = 30.0


@pytest.fixture(scope="module")
def module_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with running_etcd(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest.fixture
async def store(module_etcd: EtcdCluster) -> AsyncIterator[EtcdClient]:
    client = EtcdClient(module_etcd.config())
    yield client
    await client.delete_prefix("/mesh/")
    await client.close()


@pytest.fixture
def silent() -> Iterator[list[str]]:
    """Addresses that accept connections and never say anything."""
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    yield ["{}:{}".format(*server.getsockname()) for server in servers]
    for server in servers:
        server.close()


async def keeper_at(store: EtcdClient, address: str) -> None:
    await store.put(f"{keys.KEEPER_ELECTION}{1:x}", encode(pb.KeeperRecord(id="k", address=address)))


async def calls_of(client: AsyncMeshClient, folder: Path) -> list[asyncio.Task[object]]:
    """Every kind of call, none of which anybody answers."""

    async def watch() -> None:
        async for _ in client.watch():
            continue

    works = (
        client.list(timeout_s=LONG_S),
        client.deploy(application(folder), wait=True, timeout_s=LONG_S),
        client.model_metadata("digits", "digits", timeout_s=LONG_S),
        watch(),
    )
    return [asyncio.create_task(work) for work in works]  # type: ignore[arg-type]


@pytest.mark.parametrize("found", [True, False])
async def test_a_client_can_be_closed_at_any_moment_of_its_calls(
    store: EtcdClient, module_etcd: EtcdCluster, silent: list[str], tmp_path: Path, found: bool
) -> None:
    """Whether discovery knows a keeper, which does not answer, or none."""
    if found:
        await keeper_at(store, silent[0])

    async def scenario(moment: Moment) -> None:
        client = AsyncMeshClient(Connection(module_etcd.config(), artifacts=(tmp_path / "artifacts").as_uri()))
        tasks = await calls_of(client, tmp_path)
        await moment.come(tasks[0])
        await ended(asyncio.create_task(client.close()), moment)
        for task in tasks:
            await ended(task, moment)
            assert not task.cancelled(), task
            assert isinstance(task.exception(), MeshError), repr(task.exception())

    await at_each(scenario, moments(turns=6, last=250))


async def test_calls_can_be_left_at_any_moment(
    store: EtcdClient, module_etcd: EtcdCluster, silent: list[str], tmp_path: Path
) -> None:
    await keeper_at(store, silent[0])

    async def scenario(moment: Moment) -> None:
        async with AsyncMeshClient(
            Connection(module_etcd.config(), artifacts=(tmp_path / "artifacts").as_uri())
        ) as client:
            tasks = await calls_of(client, tmp_path)
            await moment.come(tasks[0])
            for task in tasks:
                task.cancel()
            for task in tasks:
                await ended(task, moment)
                assert task.cancelled()

    await at_each(scenario, moments(turns=6, last=250))


async def test_closing_does_not_wait_for_a_discovery_that_does_not_answer() -> None:
    client = AsyncMeshClient(Connection(EtcdConfig(endpoints=(f"127.0.0.1:{free_ports(1)[0]}",))))
    asked = [asyncio.create_task(client.model_metadata("digits", "digits", timeout_s=LONG_S)) for _ in range(3)]
    await asyncio.sleep(0.2)
    began = time.monotonic()
    await client.close()
    assert time.monotonic() - began < PROMPT_S
    for task in asked:
        with pytest.raises(FailedPrecondition, match="closed"):
            await task


async def test_a_keeper_that_leaves_discovery_cancels_nobody(store: EtcdClient, silent: list[str]) -> None:
    """Its connection is closed under the call that waits for it; that call goes on to the next keeper."""
    await keeper_at(store, silent[0])
    keepers = Keepers(store, None)
    waits = asyncio.create_task(keepers.call("ListClusters", kpb.ListClustersRequest(), timeout_s=LONG_S))
    await turn_of(lambda: len(keepers._channels) == 1)
    await asyncio.sleep(0.1)
    await keeper_at(store, silent[1])
    events = keepers.watch("", "")
    assert await anext(events) is None  # it has looked who is there
    await asyncio.sleep(0.1)
    assert not waits.done(), waits
    await events.aclose()
    await keepers.close()
    with pytest.raises(MeshError):
        await waits


@pytest.mark.parametrize("wait_s", [0.0, 0.001, 0.01, 0.05, 0.15, 0.3])
def test_closing_a_blocking_client_ends_the_calls_of_other_threads(module_etcd: EtcdCluster, wait_s: float) -> None:
    client = MeshClient(Connection(module_etcd.config()))
    begun = threading.Barrier(5)

    def wait() -> BaseException | None:
        begun.wait()
        try:
            client.list(timeout_s=LONG_S)
        except (FailedPrecondition, Unavailable) as error:
            return error
        return None

    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(wait) for _ in range(4)]
        begun.wait()
        time.sleep(wait_s)
        client.close()
        assert all("closed" in str(future.result(timeout=PROMPT_S)) for future in waiting)


def test_an_interceptor_cannot_close_its_own_client(module_etcd: EtcdCluster) -> None:
    async def close(call: object, go_on: object) -> object:
        client.close()
        return await go_on(call)  # type: ignore[operator]

    client = MeshClient(Connection(module_etcd.config()), interceptors=[close])
    with pytest.raises(FailedPrecondition, match="own thread"):
        client.list(timeout_s=LONG_S)
    client.close()
