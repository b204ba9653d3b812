"""API keys while etcd is away or comes back empty, and over deaths and restarts of gateways."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from serving._proto import records_pb2 as pb
from serving.access.windows import Period, window_of
from serving.local.etcd import EtcdCluster
from serving.sdk import AsyncMeshClient, CreatedKey, KeyLimits
from serving.store import EtcdClient, keys
from serving.store.records import decode
from tests.integration.access.conftest import StartGateway
from tests.integration.gateway.raw_replica import raw_replica, whole
from tests.support.llm_serving import GatewayProcess

MODEL = "m1"
TOKENS = 20
EARLY_S = 50.0  # what a minute must last, so that none begins in a test on a busy machine
CLIENT: list[httpx.AsyncClient] = []
ANSWER = whole("200 OK", json.dumps({"usage": {"total_tokens": TOKENS}}).encode())


@pytest.fixture(autouse=True)
async def replica(etcd: EtcdCluster) -> AsyncIterator[None]:
    async with raw_replica(etcd.config(), "r1", ANSWER, model=MODEL):
        yield


async def until(look: Callable[[], Awaitable[Any]], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not await look():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        await asyncio.sleep(0.05)


@pytest.fixture(autouse=True)
async def http() -> AsyncIterator[None]:
    """One client for all: making one costs more than many requests."""
    async with httpx.AsyncClient(timeout=30) as client:
        CLIENT.append(client)
        yield
        CLIENT.clear()


def headers_of(key: CreatedKey) -> dict[str, str]:
    return {"authorization": f"Bearer {key.text}"}


async def ask(gateway: GatewayProcess, key: CreatedKey) -> httpx.Response:
    body = {"model": MODEL, "max_tokens": 8}
    return await CLIENT[0].post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers_of(key))


async def new_key(mesh: AsyncMeshClient, gateways: list[GatewayProcess], **limits: int) -> CreatedKey:
    """Known to all gateways. Its minute lasts for a while."""
    while True:
        made = await mesh.keys.create("team", limits=KeyLimits(**limits))
        if window_of(Period.MINUTE, time.time(), made.key.id).ends_at - time.time() > EARLY_S:
            break
    for gateway in gateways:
        await until(lambda gateway=gateway: knows(gateway, made))
    return made


async def knows(gateway: GatewayProcess, key: CreatedKey) -> bool:
    answered = await CLIENT[0].get(f"{gateway.url}/v1/models", headers=headers_of(key))
    return answered.status_code == 200 and bool(answered.json()["data"])


async def admitted(gateway: GatewayProcess, key: CreatedKey, attempts: int) -> int:
    answers = [(await ask(gateway, key)).status_code for _ in range(attempts)]
    assert set(answers) <= {200, 429}
    return answers.count(200)


async def spent(etcd: EtcdCluster, key: CreatedKey) -> int:
    """Of the total, as it stands in etcd."""
    client = EtcdClient(etcd.config())
    found = await client.get_prefix(keys.shares(key.key.id))
    await client.close()
    records = [decode(pb.KeyShares, kv.value) for kv in found.kvs]
    return sum(share.granted for one in records for share in one.shares if share.limit == "tokens_total")


async def test_etcd_goes_and_comes_back(etcd: EtcdCluster, mesh: AsyncMeshClient, start_gateway: StartGateway) -> None:
    """Keys stay known, and each gateway goes on with its share or a fair one; then the limit holds again."""
    gateways = [start_gateway(), start_gateway()]
    used = await new_key(mesh, gateways, requests_per_minute=20)
    new = await new_key(mesh, gateways, requests_per_minute=20, tokens_total=10_000)
    assert await admitted(gateways[0], used, 5) == 5
    etcd.kill()
    try:
        began = time.monotonic()
        here, there = await admitted(gateways[0], used, 30), await admitted(gateways[1], used, 30)
        assert 5 + here + there <= 40  # twice the limit
        assert there == 10  # its fair share: it had none
        assert await admitted(gateways[1], new, 12) == 10
        assert time.monotonic() - began < 60  # nobody waits for etcd: two seconds for each would be more
    finally:
        etcd.start()

    async def holds() -> bool:
        """A gateway that has not reached etcd again goes on with its fair share."""
        made = await new_key(mesh, gateways, requests_per_minute=20)
        both = await asyncio.gather(*(admitted(gateway, made, 20) for gateway in gateways))
        assert 15 <= sum(both) <= 40
        return sum(both) <= 20

    await until(holds)


async def test_a_store_that_comes_back_empty_forgets_no_key(
    etcd: EtcdCluster, mesh: AsyncMeshClient, start_gateway: StartGateway
) -> None:
    gateway = start_gateway()
    kept = await new_key(mesh, [gateway], tokens_total=1000)
    gone = await new_key(mesh, [gateway])
    await mesh.keys.delete(gone.key.id)
    assert await admitted(gateway, kept, 5) == 5
    client = EtcdClient(etcd.config())
    etcd.kill()
    etcd.wipe()
    etcd.start()
    assert (await ask(gateway, kept)).status_code == 200
    await until(lambda: _stored(client, kept))
    await until(lambda: _stored(client, gone))  # its tombstone
    assert (await ask(gateway, gone)).status_code == 401
    assert [one.id for one in await mesh.keys.list() if one.id in (kept.key.id, gone.key.id)] == [kept.key.id]

    async def counted() -> bool:
        assert (await ask(gateway, kept)).status_code == 200
        return await spent(etcd, kept) >= 7 * TOKENS

    await until(counted)
    await client.close()


async def _stored(client: EtcdClient, key: CreatedKey) -> bool:
    return await client.get(keys.api_key(key.key.id)) is not None


@pytest.mark.parametrize("how", ["kill", "end"])
async def test_a_budget_survives_all_gateways(
    etcd: EtcdCluster, mesh: AsyncMeshClient, start_gateway: StartGateway, how: str
) -> None:
    """Killed ones lose what they held ahead, for the tenant; ended ones lose nothing."""
    budget = 1000
    first = [start_gateway(), start_gateway()]
    key = await new_key(mesh, first, tokens_total=budget)
    for gateway in first:
        assert await admitted(gateway, key, 10) == 10
    for gateway in first:
        getattr(gateway, how)()
    used = 20 * TOKENS
    held = await spent(etcd, key)
    assert held == used if how == "end" else used <= held <= used + 2 * 250
    second = start_gateway()
    await until(lambda: knows(second, key))
    left = await admitted(second, key, 60)
    assert (budget - held) // TOKENS - 1 <= left <= (budget - held) // TOKENS + 1
    refused = await ask(second, key)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    assert refused.headers["x-should-retry"] == "false"
    assert "retry-after" not in refused.headers
    assert (await mesh.keys.get(key.key.id)).used["tokens_total"] > budget - TOKENS


async def test_no_key_is_known_before_etcd_has_answered(etcd: EtcdCluster, start_gateway: StartGateway) -> None:
    etcd.kill()
    try:
        gateway = start_gateway()
        headers = {"authorization": f"Bearer mesh_{'0' * 16}_{'0' * 64}"}
        answered = await CLIENT[0].get(f"{gateway.url}/v1/models", headers=headers)
        assert answered.status_code == 503
    finally:
        etcd.start()
