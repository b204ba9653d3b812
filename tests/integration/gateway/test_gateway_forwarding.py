"""What the gateway makes of replicas that are full, leave, break, or answer what they should not."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from serving.local.etcd import EtcdCluster
from tests.integration.gateway.raw_replica import Answer, RawReplica, raw_replica, reset, wait_heard, whole
from tests.support.llm_serving import GatewayProcess
from tests.support.waiting import aeventually

GOOD = whole("200 OK", b'{"good": true}')
FULL = whole("429 Too Many Requests", b'{"error": {}}', b"retry-after: 1\r\n")
LEAVES = whole("503 Service Unavailable", b'{"error": {}}')


class Edge:
    """A gateway, and replicas of one model behind it."""

    def __init__(self, gateway: GatewayProcess, etcd: EtcdCluster, stack: AsyncExitStack, model: str) -> None:
        self.model = model
        self.url = gateway.url
        self._gateway = gateway
        self._etcd = etcd
        self._stack = stack

    async def replicas(self, *, state: str = "ready", **answers: Answer) -> list[RawReplica]:
        """Of these names, known to the gateway."""
        made = [
            await self._stack.enter_async_context(
                raw_replica(self._etcd.config(), f"{self.model}-{name}", answer, model=self.model, state=state)
            )
            for name, answer in answers.items()
        ]
        await wait_heard(self._gateway.url, self._etcd.config())
        return made

    async def ask(self, **options: Any) -> httpx.Response:
        async with httpx.AsyncClient(timeout=30) as client:
            return await client.post(f"{self._gateway.url}/v1/chat/completions", json={"model": self.model}, **options)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, etcd: EtcdCluster) -> Iterator[GatewayProcess]:
    running = GatewayProcess(tmp_path_factory.mktemp("gateway"), etcd.config(), idle_timeout_s=5.0, leave_s=0.0)
    yield running
    running.end()


@pytest.fixture
async def edge(gateway: GatewayProcess, etcd: EtcdCluster) -> AsyncIterator[Edge]:
    async with AsyncExitStack() as stack:
        yield Edge(gateway, etcd, stack, f"m{uuid.uuid4().hex[:8]}")


@pytest.mark.parametrize("bad", [FULL, LEAVES, reset], ids=["full", "leaves", "resets"])
async def test_another_replica_answers(edge: Edge, bad: Answer) -> None:
    """And the one that has refused does not look fast for it: it gets few requests."""
    refusing, good = await edge.replicas(refusing=bad, good=GOOD)
    for _ in range(40):
        answer = await edge.ask()
        assert (answer.status_code, answer.json()) == (200, {"good": True})
    assert len(good.requests) == 40
    assert len(refusing.requests) <= 20, len(refusing.requests)


async def test_when_all_are_full_it_says_so(edge: Edge) -> None:
    await edge.replicas(one=FULL, two=FULL)
    answer = await edge.ask()
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")


async def test_one_broken_connection_of_the_only_replica(edge: Edge) -> None:
    async def once(replica: RawReplica, body: bytes, writer: asyncio.StreamWriter) -> None:
        await (reset if len(replica.requests) == 1 else GOOD)(replica, body, writer)

    await edge.replicas(only=once)
    answer = await edge.ask()
    assert answer.json() == {"good": True}


async def test_a_request_that_breaks_replicas_is_not_sent_to_all(edge: Edge) -> None:
    replicas = await edge.replicas(a=reset, b=reset, c=reset, d=reset)
    answer = await edge.ask()
    assert answer.status_code == 503
    assert "127.0.0.1" not in answer.text
    assert sum(len(replica.requests) for replica in replicas) == 2


async def test_what_passes_and_what_does_not(edge: Edge) -> None:
    extra = b"set-cookie: a=b\r\nx-hop: 1\r\nconnection: x-hop\r\nx-kept: 2\r\n"
    (replica,) = await edge.replicas(only=whole("200 OK", b"{}", extra))
    headers = {"authorization": "Bearer secret", "cookie": "c=d", "traceparent": "00-1-2-3", "x-request-id": "mine"}
    answer = await edge.ask(headers=headers)
    await edge.ask()
    assert (answer.headers["x-kept"], answer.headers["x-request-id"]) == ("2", "mine")
    assert not {"set-cookie", "x-hop"} & set(answer.headers)
    seen = replica.requests[0].lower()
    assert b"traceparent: 00-1-2-3" in seen
    assert b"x-request-id: mine" in seen
    assert b"secret" not in seen
    assert all(b"cookie" not in request.lower() for request in replica.requests)


async def test_redirects_are_the_clients_business(edge: Edge) -> None:
    (replica,) = await edge.replicas(only=whole("302 Found", b"", b"location: /secret\r\n"))
    answer = await edge.ask()
    assert answer.status_code == 302
    assert len(replica.requests) == 1


async def test_an_event_that_is_cut_off_is_left_out(edge: Edge) -> None:
    async def half(_replica: RawReplica, _body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        piece = b'data: {"n": 1}\n\ndata: {"n": 2'
        writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.transport.abort()

    await edge.replicas(only=half)
    answer = await edge.ask()
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
    assert events[0] == {"n": 1}
    assert "broke off" in events[1]["error"]["message"]
    assert len(events) == 2


async def test_a_whole_answer_that_is_cut_off_is_no_answer(edge: Edge) -> None:
    async def half(_replica: RawReplica, _body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{")
        await writer.drain()
        writer.transport.abort()

    await edge.replicas(only=half)
    with pytest.raises(httpx.HTTPError):
        await edge.ask()


async def test_a_silent_replica_is_given_up(edge: Edge) -> None:
    async def never(_replica: RawReplica, _body: bytes, _writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    await edge.replicas(silent=never, good=GOOD)
    answers = [await edge.ask() for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 6


async def number(edge: Edge, name: str) -> float:
    async with httpx.AsyncClient(timeout=30) as client:
        page = (await client.get(f"{edge.url}/metrics")).text
    return next(float(line.split()[1]) for line in page.splitlines() if line.startswith(f"{name} "))


async def test_a_replica_that_lets_a_batch_wait_is_not_lost(edge: Edge) -> None:
    async def for_batches(replica: RawReplica, body: bytes, writer: asyncio.StreamWriter) -> None:
        if b"x-mesh-class: batch" in replica.requests[-1].lower():
            await asyncio.sleep(60)
        await GOOD(replica, body, writer)

    async def none_ejected() -> bool:
        return await number(edge, "mesh_gateway_ejected") == 0.0

    replicas = await edge.replicas(one=for_batches, two=for_batches)
    await aeventually(none_ejected, what="replicas of other tests are gone")
    answer = await edge.ask(headers={"x-mesh-class": "batch"})
    assert answer.status_code == 503
    assert sum(len(replica.requests) for replica in replicas) == 2
    assert await none_ejected()


async def test_what_a_batch_waits_for_is_no_time_of_a_replica(edge: Edge) -> None:
    name = "mesh_gateway_first_byte_seconds_count"
    await edge.replicas(only=GOOD)
    before = await number(edge, name)
    assert (await edge.ask(headers={"x-mesh-class": "batch"})).status_code == 200
    assert await number(edge, name) == before
    assert (await edge.ask()).status_code == 200
    assert await number(edge, name) == before + 1


async def test_a_model_without_a_replica_is_waited_for(edge: Edge) -> None:
    await edge.replicas(state="draining", old=LEAVES)
    asking = asyncio.create_task(edge.ask())
    await asyncio.sleep(0.3)
    assert not asking.done()
    await edge.replicas(new=GOOD)
    assert (await asking).json() == {"good": True}
