"""Real etcd, real Triton, real replicas; the libraries are built by the tests, as users build theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from serving._proto import records_pb2 as pb
from serving.config import EtcdConfig
from tests.integration.cpp_deployment import harness
from tests.integration.replica.replica_harness import ReplicaProcess, write_model
from tests.support.etcd_server import StartEtcd

Start = Callable[..., ReplicaProcess]


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return harness.build_libraries(tmp_path_factory.mktemp("cpp-libraries"))


@pytest.fixture
def etcd(own_etcd: StartEtcd) -> EtcdConfig:
    return own_etcd().config()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Models that the deployment may call: `echo`, and `slow`, which takes half a second."""
    folder = tmp_path / "repository"
    write_model(folder, "echo")
    write_model(folder, "slow", delay_ms=500)
    return folder


@pytest.fixture
def start(tmp_path: Path, libraries: Path) -> Iterator[Start]:
    """Starts a replica of a library and waits until it is in a state; ends it with the test."""
    with ExitStack() as stack:

        def begin(library: str, *, state: str = "ready", **options: object) -> ReplicaProcess:
            config: pb.ReplicaConfig = harness.config_of(tmp_path, libraries, library, **options)  # type: ignore[arg-type]
            replica = stack.enter_context(harness.start(tmp_path, config))
            replica.wait_state(state)
            return replica

        yield begin
