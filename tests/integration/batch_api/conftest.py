"""An etcd and a client of it, for tests of files and batches."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from serving.local.etcd import EtcdCluster
from serving.store import EtcdClient


@pytest.fixture
async def store(etcd: EtcdCluster) -> AsyncIterator[EtcdClient]:
    client = EtcdClient(etcd.config())
    yield client
    await client.close()
