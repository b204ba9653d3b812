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
