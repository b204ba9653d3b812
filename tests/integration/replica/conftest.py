"""Real etcd, real Triton, the real replica: only the model is made for the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.config import EtcdConfig
from serving.local.etcd import EtcdCluster
from tests.integration.replica.replica_harness import Store, prepare_command, replica_binary, write_model
from tests.support.etcd_server import StartEtcd


@pytest.fixture(scope="session", autouse=True)
def _built() -> None:
    if not replica_binary().exists():
        pytest.fail(f"{replica_binary()} is missing; run `make setup`, or set MESH_BUILD_DIR")


@pytest.fixture
def etcd_server(own_etcd: StartEtcd) -> EtcdCluster:
    return own_etcd()


@pytest.fixture
def etcd(etcd_server: EtcdCluster) -> EtcdConfig:
    return etcd_server.config()


@pytest.fixture
def store(etcd: EtcdConfig) -> Store:
    return Store(etcd)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A model repository with one model, `echo`."""
    folder = tmp_path / "repository"
    write_model(folder, "echo")
    return folder


@pytest.fixture
def command(tmp_path: Path, repository: Path) -> list[str]:
    return prepare_command(tmp_path, repository)
