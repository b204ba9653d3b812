"""Real etcd servers for the tests of the store."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator

import pytest

from serving.local.etcd import EtcdCluster, start_etcd_cluster
from serving.store import EtcdClient
from tests.support.etcd_server import OPTIONS

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def members_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    cluster = start_etcd_cluster(tmp_path_factory.mktemp("members"), options=OPTIONS)
    yield cluster
    cluster.kill()


@pytest.fixture
def three_members(members_of_module: EtcdCluster) -> EtcdCluster:
    """A store of three healthy members without keys; the test may kill and pause them."""
    members_of_module.start()

    async def clear() -> None:
        client = EtcdClient(members_of_module.config())
        await client.delete_prefix("/")
        await client.close()

    asyncio.run(clear())
    return members_of_module


@pytest.fixture
def prefix() -> str:
    """Keys of one test."""
    return f"/mesh/test{next(_numbers)}/"


@pytest.fixture
async def client(shared_etcd: EtcdCluster) -> AsyncIterator[EtcdClient]:
    made = EtcdClient(shared_etcd.config())
    yield made
    await made.close()
