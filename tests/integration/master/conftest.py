"""One real etcd, Ray cluster and agent for all tests of this folder that need them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from serving.store.client import EtcdClient
from serving.store.keys import AppKey
from tests.integration.master.small_mesh import LIBRARY, Keeper, SmallMesh, until
from tests.support.processes import master_pids, replica_pids


@pytest.fixture(scope="package")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallMesh]:
    if not LIBRARY.exists():
        pytest.fail(f"{LIBRARY} is missing: build the C++ part first (cmake --build build/cmake --target mesh_actor)")
    directory: Path = tmp_path_factory.mktemp("mesh")
    mesh = SmallMesh(directory)
    try:
        mesh.start_agent()
        yield mesh
    finally:
        mesh.stop()


@pytest.fixture
async def client(mesh: SmallMesh) -> AsyncIterator[EtcdClient]:
    client = mesh.client()
    yield client
    await client.close()


@pytest.fixture
async def keeper(mesh: SmallMesh, client: EtcdClient, request: pytest.FixtureRequest) -> AsyncIterator[Keeper]:
    """An application of the test's own, removed afterwards."""
    name = request.node.name.removeprefix("test_").split("[")[0].replace("_", "-")[:50].strip("-")
    keeper = Keeper(client, AppKey("default", name))
    yield keeper
    if keeper.revision and not keeper.stored.deleting:
        await keeper.delete()
    if keeper.revision:
        await keeper.wait_gone()

    async def none_left() -> bool:
        return not master_pids(mesh.ray) and not replica_pids(mesh.ray)

    # A master that has deleted its last record still runs for a moment, and the next test counts masters.
    await until(none_left, told=lambda: f"masters {master_pids(mesh.ray)}, replicas {replica_pids(mesh.ray)}")
