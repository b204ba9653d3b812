"""Health checks against real gRPC servers in processes that are killed, stopped and continued."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from serving.local.process import Process
from serving.master.health import HealthCheck, HealthLimits
from serving.master.model import Health
from tests.integration.master.small_mesh import until

SERVER = """
import asyncio, sys
import grpc

class Health(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method == "/grpc.health.v1.Health/Check":
            return grpc.unary_unary_rpc_method_handler(self.check)
        if details.method == "/grpc.health.v1.Health/Watch" and sys.argv[1] == "watch":
            return grpc.unary_stream_rpc_method_handler(self.watch)
        return None

    async def check(self, request, context):
        print("checked", flush=True)
        return b"\\x08\\x01"

    async def watch(self, request, context):
        yield b"\\x08\\x01"
        await asyncio.Event().wait()

async def main():
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Health(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"port={port}", flush=True)
    await server.wait_for_termination()

asyncio.run(main())
"""


@pytest.fixture(params=["watch", "check"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Process]:
    command = [sys.executable, "-c", SERVER, request.param]
    process = Process.start("health server", command, log_file=tmp_path / "server.log")
    try:
        process.wait_ready(lambda: "port=" in process.log_file.read_text(), timeout_s=60.0)
        yield process
    finally:
        process.kill()


class Verdicts:
    def __init__(self) -> None:
        self.seen: list[Health] = []
        self.news = asyncio.Event()

    def add(self, health: Health) -> None:
        self.seen.append(health)
        self.news.set()

    async def wait(self, wanted: Callable[[Health], bool]) -> float:
        started = time.monotonic()
        while not any(wanted(health) for health in self.seen):
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), 90.0)
        return time.monotonic() - started


@pytest.fixture
async def verdicts(server: Process) -> AsyncIterator[Verdicts]:
    found = Verdicts()
    port = server.log_file.read_text().split("port=")[1].split()[0]
    check = HealthCheck(f"127.0.0.1:{port}", server.pid, found.add, limits=HealthLimits(interval_s=0.5, timeout_s=3.0))
    task = asyncio.create_task(check.run())
    yield found
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_killed_process_is_gone(server: Process, verdicts: Verdicts) -> None:

    async def checked() -> bool:
        return server.log_file.read_text().count("checked") >= 3

    await until(checked)
    assert verdicts.seen == [], "a healthy process is no news"
    server.kill()
    took = await verdicts.wait(lambda health: health.gone)
    print(f"known to be gone after {took * 1000:.0f} ms")
    assert verdicts.seen[0].pid == server.pid


async def test_a_stopped_process_hangs_and_one_that_continues_recovers(server: Process, verdicts: Verdicts) -> None:
    server.identity.signal_group(signal.SIGSTOP)
    await verdicts.wait(lambda health: health.hung)
    assert not any(health.gone for health in verdicts.seen)
    verdicts.seen.clear()
    server.identity.signal_group(signal.SIGCONT)
    await verdicts.wait(lambda health: not health.hung)
    assert verdicts.seen[-1] == Health(server.pid)
