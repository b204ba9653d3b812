"""A gateway with real replicas of the tiny chat model behind it; everything is ended whatever a test did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from serving.local.etcd import EtcdCluster
from tests.support.llm_serving import GatewayProcess, LlmProcess, llm_config

StartReplica: TypeAlias = Callable[..., LlmProcess]
StartGateway: TypeAlias = Callable[..., GatewayProcess]


@pytest.fixture
def start_replica(tmp_path: Path, etcd: EtcdCluster) -> Iterator[StartReplica]:
    """Starts replicas, and waits until they are in discovery unless `wait` is False."""
    with ExitStack() as stack:

        def start(name: str = "chat-r1-0", *, wait: bool = True, **changes: Any) -> LlmProcess:
            replica = LlmProcess(tmp_path, llm_config(tmp_path, name=name, etcd=etcd.config(), **changes))
            stack.callback(replica.end)
            if wait:
                replica.wait_state("ready", registered=True)
            return replica

        yield start


@pytest.fixture
def start_gateway(tmp_path: Path, etcd: EtcdCluster) -> Iterator[StartGateway]:
    with ExitStack() as stack:

        def start(**changes: Any) -> GatewayProcess:
            gateway = GatewayProcess(tmp_path, etcd.config(), **changes)
            stack.callback(gateway.end)
            return gateway

        yield start
