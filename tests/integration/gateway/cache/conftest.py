"""A real gateway and a real semantic cache in front of replicas that say how often they are asked."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from serving.local.etcd import EtcdCluster
from tests.integration.gateway.cache.cached_edge import CONTENT, Edge, knows, until
from tests.integration.gateway.raw_replica import raw_replica
from tests.integration.gateway.speaker import Speaker
from tests.support.llm_serving import CacheProcess, GatewayProcess, cache_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, etcd: EtcdCluster) -> Iterator[GatewayProcess]:
    running = GatewayProcess(
        tmp_path_factory.mktemp("gateway"), etcd.config(), leave_s=0.0, cache_timeout_s=5.0, hold_s=10.0
    )
    yield running
    running.end()


@pytest.fixture(scope="module")
def cache(folder: Path, etcd: EtcdCluster) -> Iterator[CacheProcess]:
    running = CacheProcess(folder, cache_config(folder, etcd=etcd.config(), application="raw"))
    running.wait_state("ready", registered=True)
    yield running
    running.end()


@pytest.fixture
async def edge(gateway: GatewayProcess, etcd: EtcdCluster, cache: CacheProcess) -> AsyncIterator[Edge]:
    assert cache.report.registered
    speaker, model = Speaker(), f"m{uuid.uuid4().hex[:8]}"
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(raw_replica(etcd.config(), f"{model}-0", speaker, model=model, content=CONTENT))
        made = Edge(gateway, model, speaker)
        stack.push_async_callback(made.close)
        await until(lambda: knows(made), what="the gateway knows model and cache")
        yield made
        speaker.hold.set()
