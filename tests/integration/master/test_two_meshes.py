"""Meshes of different names share a Ray cluster without seeing each other's applications."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serving._proto import records_pb2 as pb
from serving.local.etcd import start_etcd
from serving.local.process import Process
from serving.store import keys
from serving.store.client import EtcdClient
from serving.store.records import decode
from tests.integration.master.small_mesh import CLUSTER, Keeper, SmallMesh, health_answers, spec, until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


async def masters_of(client: EtcdClient) -> list[str] | None:
    """The masters that a mesh's agent tells of; None before its first record."""
    kv = await client.get(keys.cluster(CLUSTER))
    return list(decode(pb.ClusterRecord, kv.value).masters) if kv is not None else None


@pytest.fixture
async def other(mesh: SmallMesh, keeper: Keeper, tmp_path: Path) -> AsyncIterator[Keeper]:
    """Another mesh with an agent in the same Ray cluster; even the application's name is the same.

    Whatever the test did, nothing of it is left for the tests that follow: only its own agent ends its masters.
    """
    etcd = await asyncio.to_thread(start_etcd, tmp_path / "etcd")
    agent = await asyncio.to_thread(lambda: mesh.start_agent(mesh="neighbour", etcd=etcd))
    mesh.agents.remove(agent)  # those are the mesh's own
    client = EtcdClient(etcd.config())
    other = Keeper(client, keeper.app)

    async def no_master() -> bool:
        return await masters_of(client) == []

    try:
        yield other
        if other.revision and not other.stored.deleting:
            await other.delete()
        await until(no_master, told=agent.log_file.read_text)
    finally:
        await client.close()
        await asyncio.to_thread(agent.stop)
        await asyncio.to_thread(etcd.stop)


async def test_two_meshes(mesh: SmallMesh, keeper: Keeper, other: Keeper) -> None:
    wanted = spec(keeper.app, mesh.repository())
    await keeper.place(wanted)
    await other.place(wanted)
    first = (await keeper.wait_ready()).deployments[0].replicas[0]
    second = (await other.wait_ready()).deployments[0].replicas[0]
    assert first.pid != second.pid
    assert len(await keeper.endpoints()) == len(await other.endpoints()) == 1

    async def told() -> bool:
        return await masters_of(other.client) == [str(other.app)]

    await until(told)
    await other.delete()
    await other.wait_gone()
    status = await keeper.wait_ready()
    assert [replica.pid for replica in status.deployments[0].replicas] == [first.pid]
    assert await health_answers(first.address)
    placement = await keeper.client.get(keys.placement(CLUSTER, keeper.app))
    assert placement is not None
    assert decode(pb.Placement, placement.value).stored.uid == keeper.uid


async def test_a_second_mesh_of_the_same_name_is_refused(mesh: SmallMesh, keeper: Keeper, tmp_path: Path) -> None:
    await keeper.place(spec(keeper.app, mesh.repository()))
    ready = (await keeper.wait_ready()).deployments[0].replicas[0]
    etcd = await asyncio.to_thread(start_etcd, tmp_path / "etcd")
    try:
        agent = await asyncio.to_thread(lambda: mesh.start_agent(etcd=etcd))
        mesh.agents.remove(agent)
        try:
            await until(lambda: _ended(agent))
            assert agent.exit_status() == 3
            assert "meshes that share a Ray cluster need different names" in agent.log_file.read_text()
        finally:
            await asyncio.to_thread(agent.stop)
    finally:
        await asyncio.to_thread(etcd.stop)
    assert (await keeper.wait_ready()).deployments[0].replicas[0].pid == ready.pid


async def _ended(process: Process) -> bool:
    return not process.running()
