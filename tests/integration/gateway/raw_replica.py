"""Replicas made of a socket: they answer what a test says, down to the byte, and register in etcd as real ones do."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx

from serving._proto import records_pb2 as pb
from serving.config import EtcdConfig
from serving.discovery import Registrar
from tests.support.waiting import aeventually

Answer = Callable[["RawReplica", bytes, asyncio.StreamWriter], Awaitable[None]]


class RawReplica:
    """`requests` are heads and bodies of what came, probes of /health aside; `readers` belong to open connections.

    What it answers may be changed.
    """

    def __init__(self, name: str, answer: Answer) -> None:
        self.name = name
        self.requests: list[bytes] = []
        self.readers: dict[asyncio.StreamWriter, asyncio.StreamReader] = {}
        self.answer = answer

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.readers[writer] = reader
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line), 0
                )
                body = await reader.readexactly(length)
                if head.startswith(b"GET /health"):
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                    continue
                self.requests.append(head + body)
                await self.answer(self, body, writer)
                await writer.drain()
        del self.readers[writer]
        writer.close()


@asynccontextmanager
async def raw_replica(
    etcd: EtcdConfig,
    name: str,
    answer: Answer,
    *,
    model: str,
    state: str = "ready",
    application: str = "raw",
    cluster: str = "east",
    revision: int = 1,
    content: str = "",
    deployment: str = "m",
) -> AsyncIterator[RawReplica]:
    """Listens and is in discovery as long as it is entered."""
    replica = RawReplica(name, answer)
    server = await asyncio.start_server(replica.handle, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    record = pb.Endpoint(
        id=name,
        address=f"{host}:{port}",
        protocol="openai-http",
        role="direct",
        namespace="default",
        application=application,
        deployment=deployment,
        cluster=cluster,
        models=[pb.ModelRecord(name=model)],
        generation=1,
        revision=revision,
        state=state,
        content=content,
    )
    registrar = Registrar(etcd, record, ttl_s=60)
    await registrar.start()
    await registrar.wait_registered(60)
    try:
        yield replica
    finally:
        await registrar.close()
        server.close()


def whole(status: str, body: bytes = b"{}", headers: bytes = b"") -> Answer:
    """An answer with these headers (each with its line end)."""

    async def answer(_replica: RawReplica, _body: bytes, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n\r\n"
        writer.write(head % (status.encode(), headers, len(body)) + body)

    return answer


async def reset(_replica: RawReplica, _body: bytes, writer: asyncio.StreamWriter) -> None:
    """Breaks the connection instead of an answer."""
    writer.transport.abort()


async def wait_heard(gateway_url: str, etcd: EtcdConfig) -> None:
    """Until the gateway knows of all that is registered: it hears of it in the store's order, and of this one last."""
    name = f"last-{uuid.uuid4().hex}"
    async with (
        raw_replica(etcd, name, whole("404 Not Found"), model=name, application=name),
        httpx.AsyncClient(base_url=gateway_url, timeout=30) as client,
    ):

        async def there() -> bool:
            return name in {one["id"] for one in (await client.get("/v1/models")).json()["data"]}

        await aeventually(there, what="the last replica at the gateway")
