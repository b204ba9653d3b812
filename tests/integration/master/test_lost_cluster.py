"""A Ray cluster that dies under its agent, and one that is not there yet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.local.ports import free_ports
from serving.store import keys
from serving.store.keys import AppKey
from tests.integration.master.small_mesh import CLUSTER, Keeper, SmallMesh, spec, until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture
def own_mesh(tmp_path: Path) -> Iterator[SmallMesh]:
    mesh = SmallMesh(tmp_path)
    try:
        yield mesh
    finally:
        mesh.stop()


async def test_the_record_of_a_dead_cluster_is_taken_back(own_mesh: SmallMesh) -> None:
    client = own_mesh.client()
    keeper = Keeper(client, AppKey("default", "digits"))
    agent = own_mesh.start_agent()
    await keeper.place(spec(keeper.app, own_mesh.repository()))
    await keeper.wait_ready()
    started = time.monotonic()
    await asyncio.to_thread(own_mesh.ray.kill)

    async def gone() -> bool:
        return await client.get(keys.cluster(CLUSTER)) is None

    await until(gone)
    print(f"record taken back after {time.monotonic() - started:.1f} s")

    async def told() -> bool:
        return "Ray is away: the cluster's record is taken back" in agent.log_file.read_text()

    await until(told)
    assert await client.get(keys.placement(CLUSTER, keeper.app)) is not None
    await client.close()


async def test_an_agent_waits_for_a_cluster_that_is_not_there(own_mesh: SmallMesh) -> None:
    client = own_mesh.client()
    address = own_mesh.ray.address
    own_mesh.ray.address = f"127.0.0.1:{free_ports(1)[0]}"
    agent = own_mesh.start_agent()

    async def told() -> bool:
        return "cannot join the Ray cluster yet" in agent.log_file.read_text()

    await until(told)
    assert agent.running()
    assert await client.get(keys.cluster(CLUSTER)) is None
    own_mesh.ray.address = address
    await client.close()
