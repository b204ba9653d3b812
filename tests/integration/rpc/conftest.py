from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from tests.integration.rpc.rpc_server import EchoServer, server_binary

StartServer = Callable[..., EchoServer]


@pytest.fixture(scope="session", autouse=True)
def _built() -> None:
    if not server_binary().exists():
        pytest.fail(f"{server_binary()} is missing: cmake --build <build> --target rpc_echo_server (MESH_BUILD_DIR)")


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Starts servers with options; each must end cleanly."""
    with ExitStack() as stack:
        count = 0

        def start(**options: object) -> EchoServer:
            nonlocal count
            count += 1
            return stack.enter_context(EchoServer(tmp_path / f"server{count}.log", **options))

        yield start


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    """One server for the tests of a module that change nothing about it."""
    with EchoServer(tmp_path_factory.mktemp("rpc") / "server.log", event_loops=2) as running:
        yield running


@pytest.fixture
def channel(server: EchoServer) -> Iterator[grpc.Channel]:
    with server.channel() as opened:
        yield opened
