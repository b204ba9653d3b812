"""One mesh of one Ray cluster for all end-to-end tests of a run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import MeshClient
from tests.support.mesh import DIGITS, RunningMesh, deploy_digits, start_mesh, stop_mesh


@pytest.fixture(scope="package")  # which ends with the folder's last test, so that none runs beside the other's tests
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    running = start_mesh(Path(tmp_path_factory.mktemp("e2e")), clusters=1)
    yield running
    stop_mesh(running)


@pytest.fixture
def client(mesh: RunningMesh) -> Iterator[MeshClient]:
    with MeshClient(mesh.connection) as connected:
        yield connected


@pytest.fixture
def digits(client: MeshClient) -> MeshClient:
    deploy_digits(client)
    return client


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of the digits model repository, to be broken."""
    copy = tmp_path / "models"
    shutil.copytree(DIGITS.parent / "models", copy)
    return copy
