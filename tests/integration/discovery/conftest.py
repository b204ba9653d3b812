"""Real etcd servers for the tests of discovery."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from serving.local.etcd import EtcdCluster
from serving.store import EtcdClient


@pytest.fixture
async def client(shared_etcd: EtcdCluster) -> AsyncIterator[EtcdClient]:
    made = EtcdClient(shared_etcd.config())
    yield made
    await made.close()
