"""Clients that take nothing, send too much, or just stay: the gateway keeps its memory, and answers the others."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from serving.local.etcd import EtcdCluster
from tests.integration.gateway.raw_replica import Answer, RawReplica, raw_replica, whole
from tests.support.llm_serving import GatewayProcess, LineProcess
from tests.support.waiting import eventually

CHAT = "/v1/chat/completions"
MIB = 1 << 20
MANY = 10_000
GOOD = whole("200 OK", b'{"good": true}')


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, etcd: EtcdCluster) -> Iterator[GatewayProcess]:
    running = GatewayProcess(
        tmp_path_factory.mktemp("gateway"), etcd.config(), leave_s=0.0, drain_timeout_s=1.0, max_requests=20_000
    )
    yield running
    running.end()


@asynccontextmanager
async def served(gateway: GatewayProcess, etcd: EtcdCluster, **answers: Answer) -> AsyncIterator[dict[str, RawReplica]]:
    """A replica for each model, known to the gateway."""
    async with AsyncExitStack() as stack, httpx.AsyncClient() as client:
        made = {
            name: await stack.enter_async_context(raw_replica(etcd.config(), name, answer, model=name))
            for name, answer in answers.items()
        }
        while True:
            models = (await client.get(f"{gateway.url}/v1/models")).json()["data"]
            if set(answers) <= {one["id"] for one in models}:
                break
            await asyncio.sleep(0.05)
        yield made


def memory(gateway: GatewayProcess) -> int:
    """Resident bytes."""
    return int(psutil.Process(gateway.pid).memory_info().rss)


def written(model: str, path: str = CHAT) -> bytes:
    body = json.dumps({"model": model, "stream": True}).encode()
    return b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (path.encode(), len(body), body)


async def while_others_ask(gateway: GatewayProcess, work: Callable[[], Awaitable[Any]]) -> list[float]:
    """How long another client's requests took meanwhile; all of them are answered."""
    took: list[float] = []
    stop = asyncio.Event()

    async def others() -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            while not stop.is_set():
                began = time.perf_counter()
                answer = await client.post(gateway.url + CHAT, json={"model": "good"})
                assert answer.json() == {"good": True}
                took.append(time.perf_counter() - began)

    asking = asyncio.create_task(others())
    try:
        await work()
    finally:
        stop.set()
        await asking
    assert took
    return took


async def test_bodies_of_50_megabytes_cost_nothing(gateway: GatewayProcess, etcd: EtcdCluster) -> None:
    body = json.dumps({"model": "good", "messages": [{"role": "user", "content": "x" * (50 * MIB)}]}).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 64 << 10):
            yield body[at : at + (64 << 10)]

    async def send() -> None:
        for content in (body, pieces()):
            host, port = gateway.url.removeprefix("http://").split(":")
            status = await _sent(host, int(port), content)
            assert b" 413 " in status

    async with served(gateway, etcd, good=GOOD) as replicas:
        before = memory(gateway)
        await while_others_ask(gateway, send)
        assert memory(gateway) - before < 40 * MIB
        assert not [request for request in replicas["good"].requests if len(request) > MIB]


async def _sent(host: str, port: int, content: bytes | AsyncIterator[bytes]) -> bytes:
    """The first line of the answer to a body that may not be taken whole."""
    reader, writer = await asyncio.open_connection(host, port)
    length = b"Content-Length: %d" % len(content) if isinstance(content, bytes) else b"Transfer-Encoding: chunked"
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n" % length)
    status = asyncio.ensure_future(reader.readline())
    try:
        if isinstance(content, bytes):
            writer.write(content)
            await writer.drain()
        else:
            async for piece in content:
                writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                await writer.drain()
            writer.write(b"0\r\n\r\n")
    except ConnectionError:  # it was refused before its end: what was answered is there
        pass
    try:
        return await asyncio.wait_for(status, 30)
    finally:
        writer.close()


async def test_readers_that_take_nothing_are_not_waited_for_in_memory(
    gateway: GatewayProcess, etcd: EtcdCluster
) -> None:
    """Replicas would send a gigabyte to twenty clients; the gateway stops reading from them instead of keeping it."""
    sent = [0]

    async def endless(_replica: RawReplica, _body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        event = b"data: " + b"x" * 65_000 + b"\n\n"
        for _ in range(800):
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
            await writer.drain()
            sent[0] += len(event)

    async def stalled() -> None:
        host, port = gateway.url.removeprefix("http://").split(":")
        clients = []
        for _ in range(20):
            one = socket.socket()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.connect((host, int(port)))
            one.sendall(written("endless"))
            clients.append(one)
        last = -1
        while sent[0] != last or not sent[0]:  # until nothing moves any more
            last = sent[0]
            await asyncio.sleep(0.5)
        for one in clients:
            one.close()

    async with served(gateway, etcd, good=GOOD, endless=endless):
        before = memory(gateway)
        await while_others_ask(gateway, stalled)
        grown = memory(gateway) - before
    assert grown < 60 * MIB, grown / MIB


@pytest.fixture
def connections() -> int:
    """How many a test may hold: 10,000, or as many as a gateway may have descriptors for, two for each stream."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 10 * MANY if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 2 * MANY), most), hard))
    return min(MANY, (most - 200) // 2)


async def hold(
    gateway: GatewayProcess, count: int, request: bytes
) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """That many connections, each of which has sent this and, where it is a request, has an event of its answer."""
    host, port = gateway.url.removeprefix("http://").split(":")
    slots = asyncio.Semaphore(100)

    async def one() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with slots:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(request)
            if request:
                await asyncio.wait_for(reader.readuntil(b'{"n": 1}\n\n'), 60)
            return reader, writer

    return await asyncio.gather(*(one() for _ in range(count)))


@pytest.mark.long
async def test_ten_thousand_idle_connections(gateway: GatewayProcess, etcd: EtcdCluster, connections: int) -> None:
    """They cost little, disturb nobody, and are closed, as nothing comes of a request."""
    async with served(gateway, etcd, good=GOOD):
        before = memory(gateway)
        held: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

        async def idle() -> None:
            held.extend(await hold(gateway, connections, b""))
            await asyncio.sleep(5)

        took = await while_others_ask(gateway, idle)
        each = (memory(gateway) - before) / connections
        print(f"{connections} connections: {each / 1024:.1f} KiB each, others' longest answer {max(took):.3f} s")
        assert each < 24 * 1024
        closed = await asyncio.wait_for(asyncio.gather(*(reader.read() for reader, _ in held)), 90)
        assert set(closed) == {b""}
        for _, writer in held:
            writer.close()


@pytest.mark.long
async def test_ten_thousand_idle_streams(
    gateway: GatewayProcess, etcd: EtcdCluster, connections: int, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tests.integration.gateway.idle_replica", etcd.config().endpoints[0], "idle"]
    replica = LineProcess(command, tmp_path / "idle.log")
    try:
        async with served(gateway, etcd, good=GOOD):
            await asyncio.to_thread(replica.wait_line, "the idle replica")
            await asyncio.to_thread(eventually, lambda: "idle" in _models(gateway), timeout_s=60, what="its model")
            before = memory(gateway)
            held: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

            async def idle() -> None:
                held.extend(await hold(gateway, connections, written("idle")))
                await asyncio.sleep(5)

            took = await while_others_ask(gateway, idle)
            each = (memory(gateway) - before) / connections
            print(f"{connections} streams: {each / 1024:.1f} KiB each, others' longest answer {max(took):.3f} s")
            assert replica.lines[-1]["held"] == connections
            assert each < 100 * 1024
            for _, writer in held:
                writer.close()
            await asyncio.to_thread(
                eventually, lambda: replica.lines[-1]["held"] == 0, timeout_s=60, what="all streams ended"
            )
    finally:
        replica.end()


def _models(gateway: GatewayProcess) -> set[str]:
    return {one["id"] for one in httpx.get(f"{gateway.url}/v1/models").json()["data"]}
