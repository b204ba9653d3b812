"""Real etcd servers for the tests of the store."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from serving.local.etcd import EtcdCluster, EtcdOptions, start_etcd, start_etcd_cluster
from serving.store import EtcdClient

OPTIONS = EtcdOptions(die_with_parent=True)
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def shared_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """One server for every test that does not harm it."""
    cluster = start_etcd(tmp_path_factory.mktemp("etcd"), options=OPTIONS)
    yield cluster
    cluster.kill()


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[Callable[..., EtcdCluster]]:
    """Starts servers that the test may stop, kill and wipe: `own_etcd()`, `own_etcd(options=...)`."""
    started: list[EtcdCluster] = []

    def start(options: EtcdOptions = OPTIONS) -> EtcdCluster:
        started.append(start_etcd(tmp_path / f"etcd{len(started)}", options=options))
        return started[-1]

    yield start
    for cluster in started:
        cluster.kill()


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
