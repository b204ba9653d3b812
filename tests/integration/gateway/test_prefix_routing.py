"""A gateway in front of replicas that count what comes: prompts, sessions, replicas that die, leave and come."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from serving.local.etcd import EtcdCluster
from tests.integration.gateway.conftest import StartGateway, StartReplica
from tests.integration.gateway.raw_replica import Answer, RawReplica, raw_replica, whole
from tests.integration.gateway.test_gateway import wait_models
from tests.support.llm_serving import MODEL, GatewayProcess

LONG = "You answer questions about the orders of one shop, politely and in one sentence. " * 40
GOOD = whole("200 OK", b"{}", b"x-mesh-prompt-tokens: 800\r\n")


class Shop:
    """One model with replicas behind a gateway."""

    def __init__(self, gateway: GatewayProcess, etcd: EtcdCluster, stack: AsyncExitStack) -> None:
        self.model = f"m{uuid.uuid4().hex[:8]}"
        self._gateway = gateway
        self._etcd = etcd
        self._stack = stack
        self._client = httpx.AsyncClient(timeout=30)

    async def add(self, name: str, answer: Answer = GOOD) -> tuple[RawReplica, AsyncExitStack]:
        """A replica that the gateway knows, and what ends it."""
        life = await self._stack.enter_async_context(AsyncExitStack())
        made = await life.enter_async_context(
            raw_replica(self._etcd.config(), f"{self.model}-{name}", answer, model=self.model)
        )
        for attempt in range(600):  # until it has had a request: nothing else tells that a gateway knows it
            await self.ask(f"{attempt}, whose prompt is nobody's", session=f"{name}-{attempt}")
            if made.requests:
                made.requests.clear()
                return made, life
            await asyncio.sleep(0.02)
        raise AssertionError(f"{name} got nothing")

    async def ask(self, text: str, *, session: str = "", **more: Any) -> httpx.Response:
        messages = [{"role": "system", "content": text}, {"role": "user", "content": uuid.uuid4().hex}]
        headers = {b"x-mesh-session": session.encode()} if session else {}
        body = {"model": self.model, "messages": messages, **more}
        return await self._client.post(f"{self._gateway.url}/v1/chat/completions", json=body, headers=headers)

    async def close(self) -> None:
        await self._client.aclose()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, etcd: EtcdCluster) -> Iterator[GatewayProcess]:
    running = GatewayProcess(tmp_path_factory.mktemp("gateway"), etcd.config(), leave_s=0.0)
    yield running
    running.end()


@pytest.fixture
async def shop(gateway: GatewayProcess, etcd: EtcdCluster) -> AsyncIterator[Shop]:
    async with AsyncExitStack() as stack:
        made = Shop(gateway, etcd, stack)
        stack.push_async_callback(made.close)
        yield made


def asked_with(replica: RawReplica, text: str) -> int:
    return sum(text.encode() in request for request in replica.requests)


async def test_each_prompt_has_a_replica(shop: Shop) -> None:
    replicas = [(await shop.add(name))[0] for name in "abcd"]
    prompts = [f"Shop {number}. {LONG}" for number in range(12)]
    for _ in range(4):
        for prompt in prompts:
            assert (await shop.ask(prompt)).status_code == 200
    for number in range(12):
        counts = sorted(asked_with(replica, f"Shop {number}. ") for replica in replicas)
        assert counts == [0, 0, 0, 4], counts
    assert sum(bool(replica.requests) for replica in replicas) > 1


async def test_one_prompt_of_all_does_not_flood_its_replica(shop: Shop) -> None:
    """While its answers run, others take over, and know the prompt from then on."""
    release, arrived, full = asyncio.Event(), Counter[str](), asyncio.Event()

    async def slow(replica: RawReplica, body: bytes, writer: asyncio.StreamWriter) -> None:
        if b"Shop" in body:
            arrived[replica.name] += 1
            if arrived.total() == 40:
                full.set()
            await release.wait()
        await GOOD(replica, body, writer)

    for name in "ab":
        await shop.add(name, slow)
    asking = [asyncio.create_task(shop.ask(f"Shop. {LONG}", max_tokens=256)) for _ in range(40)]
    try:
        await asyncio.wait_for(full.wait(), 30)
    finally:
        release.set()
    answers = await asyncio.gather(*asking)
    assert [answer.status_code for answer in answers] == [200] * 40
    assert len(arrived) == 2
    assert min(arrived.values()) >= 5, arrived


async def test_a_replica_that_dies_gives_its_prompts_away_and_a_new_one_gets_some(shop: Shop) -> None:
    (first, first_life), (second, _) = await shop.add("a"), await shop.add("b")
    prompts = [f"Shop {number}. {LONG}" for number in range(8)]
    for prompt in prompts:
        await shop.ask(prompt)
    assert first.requests
    assert second.requests
    await first_life.aclose()
    for _ in range(1000):  # a connection that is open may be used until discovery tells
        seen = len(first.requests)
        second.requests.clear()
        for prompt in prompts:
            assert (await shop.ask(prompt)).status_code == 200
        if len(first.requests) == seen:
            break
    assert len(second.requests) == 8
    third, _ = await shop.add("c")
    fresh = [f"Another {number}. {LONG}" for number in range(12)]
    for prompt in (*prompts, *fresh):
        assert (await shop.ask(prompt)).status_code == 200
    assert asked_with(third, "Shop ") == 0
    assert asked_with(third, "Another ") > 0


async def test_sessions_stay(shop: Shop) -> None:
    replicas = [(await shop.add(name))[0] for name in "abc"]
    homes: Counter[str] = Counter()
    for name in ("anna", "bert", "carl", "dora", "emil", "fred", "gina", "hugo"):
        for turn in range(3):
            key = {"session": name} if turn % 2 == 0 else {"prompt_cache_key": name}
            assert (await shop.ask(f"I am {name}.", **key)).status_code == 200
        by_header = [asked_with(replica, f"I am {name}.") for replica in replicas]
        assert max(by_header) >= 2, by_header
        homes[replicas[by_header.index(max(by_header))].name] += 1
    assert len(homes) > 1
    for _ in range(5):
        assert (await shop.ask("Once more.", session="anna")).status_code == 200
    assert sorted(asked_with(replica, "Once more.") for replica in replicas) == [0, 0, 5]


async def test_hostile_sessions_and_bodies(shop: Shop) -> None:
    await shop.add("only")
    for session in ("x" * 4000, "a\tb", "%00", "é"):
        answer = await shop.ask("Hello", session=session)
        assert answer.status_code == 200, (session[:10], answer.text)
    for more in ({"prompt_cache_key": {"a": 1}}, {"n": "many"}, {"tools": 7}, {"max_tokens": -(10**30)}):
        assert (await shop.ask("Hello", **more)).status_code == 200


def test_real_replicas_say_what_gateways_need(start_replica: StartReplica, start_gateway: StartGateway) -> None:
    """Sizes of prompts and of the cache, and how to choose; prompts then stay where they are known."""
    for name in ("chat-r1-0", "chat-r1-1"):
        start_replica(name)
    running = start_gateway()
    wait_models(running, MODEL)

    def ask(prompt: str) -> httpx.Response:
        messages = [{"role": "system", "content": prompt}, {"role": "user", "content": "What is the capital of Japan?"}]
        body: dict[str, Any] = {"model": MODEL, "messages": messages, "max_tokens": 2, "temperature": 0}
        answer = httpx.post(f"{running.url}/v1/chat/completions", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        assert int(answer.headers["x-mesh-prompt-tokens"]) == answer.json()["usage"]["prompt_tokens"]
        with httpx.stream("POST", f"{running.url}/v1/chat/completions", json={**body, "stream": True}) as stream:
            assert stream.headers["x-mesh-prompt-tokens"] == answer.headers["x-mesh-prompt-tokens"]
            assert stream.headers["x-mesh-replica"] == answer.headers["x-mesh-replica"]
            assert any(json.loads(line[6:])["choices"] for line in stream.iter_lines() if line.startswith("data: {"))
        return answer

    prompts = [f"Shop {number}. {LONG[:800]}" for number in range(8)]
    homes = [ask(prompt).headers["x-mesh-replica"] for prompt in prompts]
    assert set(homes) == {"chat-r1-0", "chat-r1-1"}
    assert [ask(prompt).headers["x-mesh-replica"] for prompt in prompts] == homes
    metrics = httpx.get(f"{running.url}/metrics").text
    routed = {
        line.split()[0]: float(line.split()[1]) for line in metrics.splitlines() if "gateway_routed_total{" in line
    }
    assert routed['mesh_gateway_routed_total{why="prefix"}'] >= 24
    used = next(line for line in metrics.splitlines() if line.startswith("mesh_gateway_prefix_index_bytes "))
    assert float(used.split()[1]) > 0
