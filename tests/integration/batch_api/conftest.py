"""An etcd and a client of it, for tests of files and batches."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from serving.local.etcd import EtcdCluster, EtcdOptions, start_etcd
from serving.store import EtcdClient


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    running = start_etcd(tmp_path_factory.mktemp("etcd"), options=EtcdOptions(die_with_parent=True))
    yield running
    running.kill()


@pytest.fixture
async def store(etcd: EtcdCluster) -> AsyncIterator[EtcdClient]:
    client = EtcdClient(etcd.config())
    yield client
    await client.close()
