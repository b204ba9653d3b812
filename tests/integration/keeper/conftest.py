from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from keeper_harness import Bench

from serving.local.etcd import EtcdCluster
from serving.store import EtcdClient
from tests.support.etcd_server import StartEtcd


@pytest.fixture
def etcd(own_etcd: StartEtcd) -> EtcdCluster:
    return own_etcd()


@pytest.fixture
async def bench(etcd: EtcdCluster, tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path, etcd.config(), EtcdClient(etcd.config()))
    yield made
    if etcd.members[0].process is not None and not etcd.members[0].process.running():
        await asyncio.to_thread(etcd.start)
    await made.end()
