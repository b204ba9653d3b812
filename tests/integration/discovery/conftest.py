"""Real etcd servers for the tests of discovery."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from serving.local.etcd import EtcdCluster, EtcdOptions, start_etcd
from serving.store import EtcdClient

OPTIONS = EtcdOptions(die_with_parent=True)


@pytest.fixture(scope="session")
def shared_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """One server for every test that does not harm it."""
    cluster = start_etcd(tmp_path_factory.mktemp("etcd"), options=OPTIONS)
    yield cluster
    cluster.kill()


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[Callable[[], EtcdCluster]]:
    """Starts servers that the test may stop, kill and wipe."""
    started: list[EtcdCluster] = []

    def start() -> EtcdCluster:
        started.append(start_etcd(tmp_path / f"etcd{len(started)}", options=OPTIONS))
        return started[-1]

    yield start
    for cluster in started:
        cluster.kill()


@pytest.fixture
async def client(shared_etcd: EtcdCluster) -> AsyncIterator[EtcdClient]:
    made = EtcdClient(shared_etcd.config())
    yield made
    await made.close()
