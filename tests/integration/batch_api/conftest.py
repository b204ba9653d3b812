"""An etcd and a client of it, for tests of files and batches."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from serving.local.etcd import EtcdCluster
from serving.store import EtcdClient
from tests.support.runner_taking import Taking


@pytest.fixture
async def store(etcd: EtcdCluster) -> AsyncIterator[EtcdClient]:
    client = EtcdClient(etcd.config())
    yield client
    await client.close()


@pytest.fixture
async def taking(store: EtcdClient) -> AsyncIterator[Taking]:
    async with AsyncExitStack() as stack:
        yield Taking(store, stack)
