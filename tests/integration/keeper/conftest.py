from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from keeper_harness import Bench

from serving.local.etcd import EtcdCluster, EtcdOptions, start_etcd
from serving.store import EtcdClient


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdCluster]:
    cluster = start_etcd(tmp_path / "etcd", options=EtcdOptions(die_with_parent=True))
    yield cluster
    cluster.kill()


@pytest.fixture
async def bench(etcd: EtcdCluster, tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path, etcd.config(), EtcdClient(etcd.config()))
    yield made
    if etcd.members[0].process is not None and not etcd.members[0].process.running():
        await asyncio.to_thread(etcd.start)
    await made.end()
