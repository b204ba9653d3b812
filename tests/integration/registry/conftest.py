"""Real etcd servers and the C++ probes under test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.local.etcd import EtcdCluster, EtcdOptions, start_etcd, start_etcd_cluster
from tests.integration.registry.probes import RegistrarProbe, probe_binary

OPTIONS = EtcdOptions(die_with_parent=True)
StartRegistrar = Callable[..., RegistrarProbe]


@pytest.fixture(scope="session", autouse=True)
def _built() -> None:
    for name in ("registrar_probe", "rpc_client_probe"):
        if not probe_binary(name).exists():
            pytest.fail(f"{probe_binary(name)} is missing; run `make setup`, or set MESH_BUILD_DIR")


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., EtcdCluster]]:
    """Starts servers that the test may stop, kill and wipe."""
    started: list[EtcdCluster] = []

    def start(options: EtcdOptions = OPTIONS) -> EtcdCluster:
        started.append(start_etcd(tmp_path / f"etcd{len(started)}", options=options))
        return started[-1]

    yield start
    for cluster in started:
        cluster.kill()


@pytest.fixture
def server(start_server: Callable[..., EtcdCluster]) -> EtcdCluster:
    return start_server()


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
