"""A keeper on an etcd, and gateways that ask for keys; shared by the tests of a module."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from serving.local.etcd import EtcdCluster
from serving.local.process import Process
from serving.sdk import AsyncMeshClient, Connection
from tests.support.llm_serving import GatewayProcess

StartGateway = Callable[..., GatewayProcess]
MODEL = "m1"


@pytest.fixture(scope="module")
def keeper(tmp_path_factory: pytest.TempPathFactory, etcd: EtcdCluster) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("keeper")
    config = {"etcd": {"endpoints": list(etcd.config().endpoints)}, "log_file": str(folder / "keeper.log")}
    (folder / "keeper.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "keeper", "--config", str(folder / "keeper.json")]
    running = Process.start("keeper", command, log_file=folder / "keeper.out", die_with_parent=True)
    yield running
    running.kill()


@pytest.fixture(scope="module")
def start_gateway(tmp_path_factory: pytest.TempPathFactory, etcd: EtcdCluster) -> Iterator[StartGateway]:
    """Starts gateways that need keys."""
    folder = tmp_path_factory.mktemp("gateways")
    numbers = itertools.count()
    with ExitStack() as stack:

        def start(**changes: Any) -> GatewayProcess:
            settings = {"require_keys": True, "leave_s": 0.0, **changes}
            gateway = GatewayProcess(folder, etcd.config(), name=f"gateway{next(numbers)}", **settings)
            stack.callback(gateway.end)
            return gateway

        yield start


@pytest.fixture(scope="module")
def gateways(start_gateway: StartGateway, keeper: Process) -> list[GatewayProcess]:
    """Three, which are there as long as the module; the keeper as well."""
    assert keeper.running()
    return [start_gateway() for _ in range(3)]


@pytest.fixture
async def mesh(etcd: EtcdCluster, keeper: Process) -> AsyncIterator[AsyncMeshClient]:
    assert keeper.running()
    async with AsyncMeshClient(Connection(etcd=etcd.config(), artifacts="")) as client:
        yield client
