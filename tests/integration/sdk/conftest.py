"""Replicas and clients that are closed whatever a test did to them."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

sys.path.insert(0, str(Path(__file__).parent))  # the harness beside this file

from sdk_harness import FixedSource, Replica
from sdk_harness import replicas as replicas  # a fixture
from sdk_mesh import Mesh

from serving.discovery.client import InferenceClient
from serving.local.etcd import EtcdCluster
from tests.support.etcd_server import StartEtcd


@pytest.fixture
def start_on() -> Iterator[Callable[[str, int], Replica]]:
    """Starts a server by name on a port."""
    started: list[Replica] = []

    def start(name: str, port: int) -> Replica:
        started.append(Replica(name, port))
        started[-1].wait_ready()
        return started[-1]

    yield start
    for replica in started:
        replica.close()


@pytest_asyncio.fixture
async def connect() -> AsyncIterator[Callable[..., Any]]:
    """Opens an inference client on a source."""
    async with AsyncExitStack() as stack:

        async def open_client(source: FixedSource, **options: Any) -> InferenceClient:
            return await stack.enter_async_context(InferenceClient(source, application="default/digits", **options))

        yield open_client


@pytest.fixture
def etcd(own_etcd: StartEtcd) -> EtcdCluster:
    return own_etcd()


@pytest_asyncio.fixture
async def mesh(etcd: EtcdCluster, tmp_path: Path) -> AsyncIterator[Mesh]:
    """A mesh with a real etcd; keepers and a cluster are started by the test."""
    made = Mesh(tmp_path, etcd.config())
    yield made
    await made.end()
