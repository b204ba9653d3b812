"""Meshes of different names share a Ray cluster without seeing each other's applications."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from small_mesh import CLUSTER, Keeper, SmallMesh, health_answers, spec, until

from serving._proto import records_pb2 as pb
from serving.local.etcd import start_etcd
from serving.store import keys
from serving.store.client import EtcdClient
from serving.store.records import decode

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]


@pytest.fixture
async def neighbour(mesh: SmallMesh, tmp_path: Path) -> AsyncIterator[EtcdClient]:
    """The etcd of another mesh, whose agent is in the same Ray cluster."""
    etcd = await asyncio.to_thread(start_etcd, tmp_path / "etcd")
    agent = await asyncio.to_thread(lambda: mesh.start_agent(mesh="neighbour", etcd=etcd))
    client = EtcdClient(etcd.config())
    try:
        yield client
    finally:
        await client.close()
        await asyncio.to_thread(agent.stop)
        await asyncio.to_thread(etcd.stop)


async def test_two_meshes(mesh: SmallMesh, keeper: Keeper, neighbour: EtcdClient) -> None:
    other = Keeper(neighbour, keeper.app)  # even the applications' names are the same
    wanted = spec(keeper.app, mesh.repository())
    await keeper.place(wanted)
    await other.place(wanted)
    first = (await keeper.wait_ready()).deployments[0].replicas[0]
    second = (await other.wait_ready()).deployments[0].replicas[0]
    assert first.pid != second.pid
    assert len(await keeper.endpoints()) == len(await other.endpoints()) == 1

    async def told() -> bool:
        kv = await neighbour.get(keys.cluster(CLUSTER))
        return kv is not None and list(decode(pb.ClusterRecord, kv.value).masters) == [str(other.app)]

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

        async def ended() -> bool:
            return not agent.running()

        await until(ended)
        assert agent.exit_status() == 3
        assert "meshes that share a Ray cluster need different names" in agent.log_file.read_text()
    finally:
        await asyncio.to_thread(etcd.stop)
    assert (await keeper.wait_ready()).deployments[0].replicas[0].pid == ready.pid
