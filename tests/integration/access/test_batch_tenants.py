"""Files and batches belong to the tenant of a key, and a batch may ask what its key may."""

from __future__ import annotations

import asyncio
from pathlib import Path

import openai
import pytest

from serving.batch.orders.batch import may_ask
from serving.batch.orders.claims import read_batch
from serving.local.etcd import EtcdCluster
from serving.local.process import Process
from serving.sdk import AsyncMeshClient
from serving.store import EtcdClient
from tests.integration.access.conftest import StartGateway


async def test_tenants_see_their_own_only(
    mesh: AsyncMeshClient, start_gateway: StartGateway, keeper: Process, etcd: EtcdCluster, tmp_path: Path
) -> None:
    assert keeper.running()
    limits = {"max_unfinished": 2}
    gateway = start_gateway(batch_store=str(tmp_path / "store"), batch_limits=limits)
    ann_key = await mesh.keys.create(tenant="ann-b", models=("m*",), namespaces=("default",))
    bob_key = await mesh.keys.create(tenant="bob-b")
    url = f"{gateway.url}/v1"
    made = [openai.AsyncOpenAI(base_url=url, api_key=one, max_retries=0) for one in (ann_key.text, bob_key.text, "no")]
    ann, bob, nobody = made
    for one in (ann, bob):
        await _known(one)
    for ask in (nobody.files.list(), nobody.batches.list()):
        with pytest.raises(openai.AuthenticationError):
            await ask
    with pytest.raises(openai.AuthenticationError):
        await nobody.files.create(file=("a", b"{}"), purpose="batch")

    again = {"idempotency-key": "same"}  # which means another file to each
    file = await ann.files.create(file=("a", b"{}"), purpose="batch", extra_headers=again)
    theirs = await bob.files.create(file=("b", b"[]"), purpose="batch", extra_headers=again)
    assert file.id != theirs.id
    wish = {"input_file_id": file.id, "endpoint": "/v1/completions", "completion_window": "24h"}
    batch = await ann.batches.create(**wish)  # type: ignore[arg-type]
    for refused in (
        bob.files.retrieve(file.id),
        bob.files.delete(file.id),
        bob.files.content(file.id),
        bob.batches.retrieve(batch.id),
        bob.batches.cancel(batch.id),
    ):
        with pytest.raises(openai.NotFoundError):
            await refused
    with pytest.raises(openai.BadRequestError, match="input_file_id"):
        await bob.batches.create(**wish)  # type: ignore[arg-type]
    assert [one.id async for one in bob.files.list()] == [theirs.id]
    assert [one.id async for one in bob.batches.list()] == []
    assert [one.id async for one in ann.batches.list()] == [batch.id]

    await ann.batches.create(**wish)  # type: ignore[arg-type]
    with pytest.raises(openai.RateLimitError):
        await ann.batches.create(**wish)  # type: ignore[arg-type]
    await bob.batches.create(**wish | {"input_file_id": theirs.id})  # type: ignore[arg-type]

    store = EtcdClient(etcd.config())
    try:
        order = (await read_batch(store, "ann-b", batch.id)).order
    finally:
        await store.close()
    assert order.key == ann_key.key.id
    assert may_ask(order, namespace="default", application="a", model="m1")
    assert not may_ask(order, namespace="default", application="a", model="other")
    assert not may_ask(order, namespace="elsewhere", application="a", model="m1")
    for one in made:
        await one.close()


async def test_what_a_tenant_has_enqueued_is_bounded(
    mesh: AsyncMeshClient, start_gateway: StartGateway, keeper: Process, tmp_path: Path
) -> None:
    assert keeper.running()
    gateway = start_gateway(batch_store=str(tmp_path / "store"), batch_limits={"max_enqueued_tokens": 250})
    keys = [await mesh.keys.create(tenant=tenant) for tenant in ("ann-e", "bob-e")]
    ann, bob = (openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=one.text, max_retries=0) for one in keys)
    async with ann, bob:
        wishes = []
        for one in (ann, bob):
            await _known(one)
            file = await one.files.create(file=("a", b"x" * 400), purpose="batch")
            wishes.append({"input_file_id": file.id, "endpoint": "/v1/completions", "completion_window": "24h"})
        made = [await ann.batches.create(**wishes[0]) for _ in range(2)]
        with pytest.raises(openai.RateLimitError, match=r"about 200 tokens wait .* with 100 more above 250"):
            await ann.batches.create(**wishes[0])
        await bob.batches.create(**wishes[1])
        await ann.batches.cancel(made[0].id)  # nobody has begun it: it has ended
        await ann.batches.create(**wishes[0])


async def _known(client: openai.AsyncOpenAI) -> None:
    """Returns when the gateway knows its key."""
    for _ in range(300):
        try:
            await client.files.list()
        except openai.AuthenticationError:
            await asyncio.sleep(0.1)
        else:
            return
    raise AssertionError("not within 30 s: the key is known")
