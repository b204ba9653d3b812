"""One mesh of two Ray clusters for all chaos tests of a run; each but the last leaves it healthy for the next one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import MeshClient
from tests.support.census import wait_one_copy
from tests.support.mesh import RunningMesh, deploy_digits, expected_classes, start_mesh, stop_mesh


@pytest.fixture(scope="package")  # which ends with the folder's last test, so that none runs beside the other's tests
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    running = start_mesh(Path(tmp_path_factory.mktemp("chaos")), clusters=2)
    yield running
    stop_mesh(running)


@pytest.fixture(scope="session")
def expected() -> list[int]:
    return expected_classes()


@pytest.fixture
def client(mesh: RunningMesh) -> Iterator[MeshClient]:
    with MeshClient(mesh.connection) as connected:
        yield connected


@pytest.fixture
def digits(mesh: RunningMesh, client: MeshClient) -> MeshClient:
    """A client of a mesh on which the digits application runs, with one master and two replicas."""
    deploy_digits(client)
    wait_one_copy(mesh, client)
    return client
