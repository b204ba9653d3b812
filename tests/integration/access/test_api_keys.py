"""API keys end to end: a real keeper and etcd, gateways as processes, OpenAI's own client; replicas of a socket."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import openai
import pytest

from serving.access.windows import Period, window_of
from serving.local.etcd import EtcdCluster
from serving.sdk import AsyncMeshClient, CreatedKey, KeyLimits
from serving.timeouts import cancel_and_wait
from tests.integration.gateway.raw_replica import RawReplica, raw_replica
from tests.support.llm_serving import GatewayProcess
from tests.support.waiting import eventually_async

MODEL, OTHER = "m1", "m2"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
EARLY_S = 45.0
GO = threading.Event()  # what is held may be answered
UNKNOWN = "mesh_" + "0" * 16 + "_" + "0" * 64
Ask = Callable[..., Any]


async def answer(replica: RawReplica, body: bytes, writer: asyncio.StreamWriter) -> None:
    """When it may where the request's `user` is `held`; says what it cost as our replicas do, if asked."""
    asked = json.loads(body)
    told = b"x-mesh-usage: report" in replica.requests[-1].lower()
    if asked.get("user") == "held":
        await asyncio.to_thread(GO.wait, 300)
    if asked.get("stream"):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        for text in ("a", "b"):
            chunk = {
                "id": "x",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": MODEL,
                "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
            }
            writer.write(b"data: %s\n\n" % json.dumps(chunk).encode())
        if told:
            writer.write(b": mesh-usage %s\n\n" % json.dumps(USAGE).encode())
        writer.write(b"data: [DONE]\n\n")
        await writer.drain()
        writer.close()
        return
    whole = {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
        "usage": USAGE,
    }
    data = json.dumps(whole).encode()
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(data) + data)


@pytest.fixture(scope="module", autouse=True)
def replicas(etcd: EtcdCluster) -> Iterator[dict[str, RawReplica]]:
    """On a thread of their own: they outlive the loops of single tests."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    stack = AsyncExitStack()

    async def start() -> dict[str, RawReplica]:
        return {
            model: await stack.enter_async_context(raw_replica(etcd.config(), f"r-{model}", answer, model=model))
            for model in (MODEL, OTHER)
        }

    async def stop() -> None:
        await stack.aclose()
        await cancel_and_wait(*(asyncio.all_tasks() - {asyncio.current_task()}))  # of connections

    try:
        yield asyncio.run_coroutine_threadsafe(start(), loop).result(120)
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(120)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()


async def _until(look: Callable[[], Any], timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not await look():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        await asyncio.sleep(0.03)


OPEN: list[openai.AsyncOpenAI] = []


def client_of(gateway: GatewayProcess, key: str, **options: Any) -> openai.AsyncOpenAI:
    """Closed after the test."""
    OPEN.append(openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=key, **{"max_retries": 0, **options}))
    return OPEN[-1]


@pytest.fixture(autouse=True)
async def closed_clients() -> AsyncIterator[None]:
    yield
    while OPEN:
        await OPEN.pop().close()


async def made(mesh: AsyncMeshClient, gateways: list[GatewayProcess], **options: Any) -> CreatedKey:
    """A new key that every gateway knows, with the models. Its minute lasts for a while: none begins in a test."""
    limits = {name: options.pop(name) for name in tuple(options) if name in KeyLimits.__slots__}
    while True:
        created = await mesh.keys.create("team", limits=KeyLimits(**limits), **options)
        if window_of(Period.MINUTE, time.time(), created.key.id).ends_at - time.time() > EARLY_S:
            break
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {created.text}"}) as client:
        for gateway in gateways:
            url, models = f"{gateway.url}/v1/models", 0 if options else 2

            async def known(url: str = url, models: int = models) -> bool:
                answered = await client.get(url)
                return answered.status_code == 200 and len(answered.json()["data"]) >= models

            await _until(known)
    return created


async def ask(client: openai.AsyncOpenAI, **options: Any) -> Any:
    return await client.chat.completions.create(**{**CHAT, **options})


async def test_who_has_no_key_is_refused(gateways: list[GatewayProcess], mesh: AsyncMeshClient) -> None:
    created = await made(mesh, gateways)
    (gateway, *_) = gateways
    assert (await ask(client_of(gateway, created.text))).choices[0].message.content == "hello"
    wrong = created.text[:-1] + ("0" if created.text[-1] != "0" else "1")
    for key in (UNKNOWN, wrong, "none", "mesh_x", created.text + "0", created.text.upper()):
        with pytest.raises(openai.AuthenticationError) as refused:
            await ask(client_of(gateway, key))
        assert refused.value.code == "invalid_api_key"
        assert key not in refused.value.message


async def test_hostile_headers(gateways: list[GatewayProcess], mesh: AsyncMeshClient) -> None:
    created = await made(mesh, gateways)
    good = f"Bearer {created.text}".encode()
    (gateway, *_) = gateways
    hostile: list[list[bytes]] = [
        [],
        [b""],
        [b"Bearer"],
        [b"Bearer \xff\xfe" + good],
        [b"Bearer " + "mesh_ключ".encode()],
        [b"Bearer " + b"mesh_" * 5000],
        [b"Basic " + good],
        [good, good],
        [good, b"Bearer " + UNKNOWN.encode()],
        [good + b"\x00"[:0] + b", " + good],
    ]
    async with httpx.AsyncClient() as client:
        for values in hostile:
            headers = [(b"authorization", value) for value in values]
            for path, send in (
                ("/v1/models", client.get),
                ("/v1/chat/completions", client.post),
                ("/v1/x", client.get),
            ):
                answered = await send(f"{gateway.url}{path}", headers=headers)
                assert answered.status_code in (400, 401), values
                assert answered.status_code == 401 or len(values[0]) > 8000
        for scheme in (b"bearer ", b"BEARER   "):
            answered = await client.get(
                f"{gateway.url}/v1/models", headers=[(b"authorization", scheme + created.text.encode())]
            )
            assert answered.status_code == 200
        assert (await client.get(f"{gateway.url}/health")).status_code == 200
    assert created.text.rpartition("_")[2] not in gateway.log()


async def test_models_of_a_key(gateways: list[GatewayProcess], mesh: AsyncMeshClient) -> None:
    (gateway, *_) = gateways
    some = client_of(gateway, (await made(mesh, gateways, models=["default/raw/m[1]"])).text)
    assert [model.id async for model in some.models.list()] == [MODEL]
    assert (await ask(some)).model == MODEL
    for wrong in (some.models.retrieve(OTHER), ask(some, model=OTHER)):
        with pytest.raises(openai.PermissionDeniedError) as refused:
            await wrong
        assert (refused.value.code, refused.value.param) == ("model_not_allowed", "model")
    with pytest.raises(openai.NotFoundError) as unknown:
        await ask(some, model="m")
    assert MODEL in unknown.value.message
    assert OTHER not in unknown.value.message  # nothing is told of models that it may not ask
    elsewhere = client_of(gateway, (await made(mesh, gateways, namespaces=["elsewhere"])).text)
    assert [model.id async for model in elsewhere.models.list()] == []
    with pytest.raises(openai.PermissionDeniedError):
        await ask(elsewhere)
    everything = client_of(gateway, (await made(mesh, gateways)).text)
    assert {model.id async for model in everything.models.list()} == {MODEL, OTHER}


@pytest.fixture
def held() -> Iterator[None]:
    """Requests of the user `held` are."""
    GO.clear()
    yield
    GO.set()


@pytest.mark.usefixtures("held")
async def test_a_key_that_is_taken_away_while_it_is_used(
    gateways: list[GatewayProcess], mesh: AsyncMeshClient, replicas: dict[str, RawReplica]
) -> None:
    disabled, deleted = await made(mesh, gateways), await made(mesh, gateways)
    for created, take in (
        (disabled, mesh.keys.set_disabled(disabled.key.id, True)),
        (deleted, mesh.keys.delete(deleted.key.id)),
    ):
        clients = [client_of(gateway, created.text) for gateway in gateways]
        seen = len(replicas[MODEL].requests)
        running = asyncio.create_task(ask(clients[0], user="held"))
        await eventually_async(lambda seen=seen: len(replicas[MODEL].requests) > seen, what="it runs")
        await take
        for client in clients:
            await _until(lambda client=client: _refused(client), timeout_s=30)  # some milliseconds where nothing waits
        GO.set()
        assert (await running).model == MODEL  # what runs ends normally
        GO.clear()
    await mesh.keys.set_disabled(disabled.key.id, False)
    await _until(lambda: _works(client_of(gateways[0], disabled.text)))


async def _refused(client: openai.AsyncOpenAI) -> bool:
    return not await _works(client)


async def _works(client: openai.AsyncOpenAI) -> bool:
    try:
        await ask(client)
    except openai.AuthenticationError:
        return False
    return True


async def test_a_key_expires(gateways: list[GatewayProcess], mesh: AsyncMeshClient) -> None:
    works = False
    for life_s in (2, 10, 40):  # the first ends early on a machine that stands still
        ends = datetime.now(timezone.utc) + timedelta(seconds=life_s)
        created = await mesh.keys.create("team", expires_at=ends)
        client = client_of(gateways[0], created.text)
        while not works and datetime.now(timezone.utc) < ends:
            works = await _works(client)
        if works:
            break
    assert works
    await asyncio.sleep(max(0.0, (ends - datetime.now(timezone.utc)).total_seconds()))
    with pytest.raises(openai.AuthenticationError, match="expired"):
        await ask(client)


@pytest.mark.parametrize("limit", [3, 60])
async def test_requests_a_minute_over_three_gateways(
    gateways: list[GatewayProcess], mesh: AsyncMeshClient, limit: int
) -> None:
    """All of it can be used, wherever it is asked, and nothing more."""
    created = await made(mesh, gateways, requests_per_minute=limit)
    clients = [client_of(gateway, created.text) for gateway in gateways]

    refused: list[openai.RateLimitError] = []

    async def one(number: int) -> int:
        try:
            raw = await clients[number % 3].chat.completions.with_raw_response.create(**CHAT)
        except openai.RateLimitError as error:
            refused.append(error)
            return 0
        assert raw.headers["x-ratelimit-limit-requests"] == str(limit)
        assert 0 <= int(raw.headers["x-ratelimit-remaining-requests"]) < limit
        assert 0 < float(raw.headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 60
        return 1

    admitted = 0
    for number in range(0, 3 * limit, 10):  # in bursts, at all gateways
        admitted += sum(await asyncio.gather(*(one(number + more) for more in range(10))))
    assert admitted <= limit
    if admitted < limit:  # shares were on their way when some were refused
        admitted += sum([await one(number) for number in range(6)])
    assert admitted >= limit * 0.9
    assert {error.code for error in refused} == {"rate_limit_exceeded"}
    assert all(1 <= int(error.response.headers["retry-after"]) <= 60 for error in refused)


@pytest.mark.usefixtures("held")
async def test_concurrent_requests_and_openais_own_retries(
    gateways: list[GatewayProcess], mesh: AsyncMeshClient, replicas: dict[str, RawReplica]
) -> None:
    created = await made(mesh, gateways, concurrent_requests=2)
    clients = [client_of(gateway, created.text) for gateway in gateways]
    asking = [asyncio.create_task(ask(clients[n % 3], user="held")) for n in range(8)]
    await eventually_async(lambda: sum(one.done() for one in asking) == 6, what="the others are refused")
    GO.set()
    results = await asyncio.gather(*asking, return_exceptions=True)
    refused = [one for one in results if isinstance(one, openai.RateLimitError)]
    assert len(refused) == 6, results
    assert all(error.response.headers["retry-after"] == "1" for error in refused)
    patient = [client_of(gateway, created.text, max_retries=8) for gateway in gateways]
    seen = len(replicas[MODEL].requests)
    assert len(await asyncio.gather(*(ask(patient[n % 3]) for n in range(9)))) == 9
    assert len(replicas[MODEL].requests) == seen + 9


async def test_tokens_are_counted_as_answers_say(gateways: list[GatewayProcess], mesh: AsyncMeshClient) -> None:
    (gateway, *_) = gateways
    created = await made(mesh, gateways, tokens_per_minute=1000, tokens_total=10_000)
    client = client_of(gateway, created.text)
    for number in range(1, 4):
        await ask(client)
        stream = await ask(client, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "ab"
        raw = await client.chat.completions.with_raw_response.create(**CHAT)
        left = int(raw.headers["x-ratelimit-remaining-tokens"])
        reserved = -(-len(raw.http_request.content) // 4) + 10
        assert left == 1000 - 36 * number + 12 - reserved  # this one is settled when it has ended
    async with httpx.AsyncClient() as plain:
        text = (await plain.get(f"{gateway.url}/metrics")).text
    assert 'mesh_gateway_tenant_tokens_total{tenant="team"}' in text
    with pytest.raises(openai.RateLimitError, match="may need"):
        await ask(client, max_tokens=1000)
    with pytest.raises(openai.RateLimitError, match="tokens a minute"):
        await ask(client, max_tokens=900)


async def test_the_replicas_report_is_no_concern_of_clients(
    gateways: list[GatewayProcess], mesh: AsyncMeshClient
) -> None:
    created = await made(mesh, gateways)
    headers = {"authorization": f"Bearer {created.text}"}
    async with httpx.AsyncClient(headers=headers) as client:
        streamed = await client.post(f"{gateways[0].url}/v1/chat/completions", json={**CHAT, "stream": True})
    assert streamed.text.count("data: ") == 3
    assert "mesh-usage" not in streamed.text
    assert "x-mesh-usage" not in streamed.headers


async def test_limits_that_change(gateways: list[GatewayProcess], mesh: AsyncMeshClient) -> None:
    created = await made(mesh, gateways, requests_per_minute=1000)
    client = client_of(gateways[0], created.text)
    await ask(client)
    changed = await mesh.keys.set_limits(created.key.id, KeyLimits(requests_per_minute=2), if_version=1)
    assert changed.version == 2

    async def lowered() -> bool:
        try:
            raw = await client.chat.completions.with_raw_response.create(**CHAT)
        except openai.RateLimitError:
            return True
        assert raw.headers["x-ratelimit-limit-requests"] in ("1000", "2")
        return False

    await _until(lowered)
    await mesh.keys.set_limits(created.key.id, KeyLimits())
    await _until(lambda: _unlimited(client))


async def _unlimited(client: openai.AsyncOpenAI) -> bool:
    try:
        raw = await client.chat.completions.with_raw_response.create(**CHAT)
    except openai.RateLimitError:
        return False
    return "x-ratelimit-limit-requests" not in raw.headers
