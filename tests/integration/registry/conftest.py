"""Real etcd servers and the C++ probes under test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.local.etcd import EtcdCluster, start_etcd_cluster
from tests.integration.registry.probes import RegistrarProbe, probe_binary
from tests.support.etcd_server import OPTIONS, StartEtcd

StartRegistrar = Callable[..., RegistrarProbe]


@pytest.fixture(scope="session", autouse=True)
def _built() -> None:
    for name in ("registrar_probe", "rpc_client_probe"):
        if not probe_binary(name).exists():
            pytest.fail(f"{probe_binary(name)} is missing; run `make setup`, or set MESH_BUILD_DIR")


@pytest.fixture
def server(own_etcd: StartEtcd) -> EtcdCluster:
    return own_etcd()


@pytest.fixture
def three_members(tmp_path: Path) -> Iterator[EtcdCluster]:
    cluster = start_etcd_cluster(tmp_path / "members", options=OPTIONS)
    yield cluster
    cluster.kill()


@pytest.fixture
def start_registrar(tmp_path: Path) -> Iterator[StartRegistrar]:
    """Starts registering processes; what still runs at the end is killed."""
    started: list[RegistrarProbe] = []

    def start(config: dict[str, object]) -> RegistrarProbe:
        started.append(RegistrarProbe(config, tmp_path / f"registrar{len(started)}.log"))
        return started[-1]

    yield start
    for probe in started:
        probe.kill()
