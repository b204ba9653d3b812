"""Brokers that a test leads, and a real etcd."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from serving import AsyncMeshClient, Connection
from serving.local.etcd import EtcdCluster
from tests.integration.broker.scripted_broker import ScriptedBroker
from tests.support.broker_serving import go
from tests.support.broker_world import World
from tests.support.receiver import Receiver
from tests.support.served_broker import Served


@pytest.fixture
async def broker() -> AsyncIterator[Callable[..., ScriptedBroker]]:
    """Makes brokers; stops them after the test."""
    made: list[ScriptedBroker] = []

    def make(name: str, *journals: str, lease_s: float = 15.0, max_result_bytes: int = 0) -> ScriptedBroker:
        made.append(ScriptedBroker(name, *journals, lease_s=lease_s, max_result_bytes=max_result_bytes))
        return made[-1]

    yield make
    for one in made:
        await one.stop()


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with Served(tmp_path) as made:
        yield made


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as made:
        yield made


@pytest.fixture
def world(tmp_path: Path, etcd: EtcdCluster, request: pytest.FixtureRequest) -> Iterator[World]:
    name = request.node.name.removeprefix("test_").replace("_", "-")[:60].strip("-")
    made = World(tmp_path, etcd.config(), name)
    yield made
    go(tmp_path)
    for one in made.started:
        one.end()


@pytest.fixture
async def client(etcd: EtcdCluster) -> AsyncIterator[AsyncMeshClient]:
    async with AsyncMeshClient(Connection(etcd.config())) as made:
        yield made
