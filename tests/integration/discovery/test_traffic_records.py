"""How requests are shared reaches the view of clients, and outlives etcd, replaced stores and rubbish."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import pytest

from serving._proto import records_pb2 as pb
from serving.discovery import Resolver
from serving.local.etcd import EtcdCluster
from serving.store import AppKey, EtcdClient, keys
from serving.store.records import encode
from serving.store.types import WatchEvent
from serving.types import ROLE_PROXY
from tests.integration.discovery.test_resolver_and_registrar import app as app  # a fixture
from tests.integration.discovery.test_resolver_and_registrar import endpoint, ids, resolving, until


def record(app: AppKey, weight: int, *, generation: int = 1, version: int = 1) -> bytes:
    split = pb.TrafficSplit(name="ab", model="m", sides=[pb.TrafficSide(name="a", deployment="a", weight=weight)])
    made = pb.TrafficRecord(namespace=app.namespace, name=app.name, generation=generation, version=version)
    made.splits.append(split)
    return encode(made)


def weights(resolver: Resolver) -> list[int]:
    return [side.weight for split in resolver.view.splits for side in split.sides]


async def test_changes_arrive_and_rubbish_changes_nothing(client: EtcdClient, app: AppKey) -> None:
    await client.put(keys.traffic(app), record(app, 1))
    async with resolving(client, app) as resolver:
        assert weights(resolver) == [1], "before the first request"
        views = resolver.subscribe()
        await anext(views)
        await client.put(keys.traffic(app), record(app, 2))
        await asyncio.wait_for(_seen(views, resolver, [2]), 60)
        await client.put(keys.traffic(app), b"rubbish")
        await client.put(keys.traffic(app) + "x", record(app, 7))
        await client.put(keys.traffic(app), record(app, 3))
        await until(lambda: weights(resolver) != [2], "the next record")
        assert weights(resolver) == [3]
        await client.put(keys.traffic(app), b"{}")
        await until(lambda: weights(resolver) == [], "a record without splits")
        await views.aclose()
    async with resolving(client, app, role=ROLE_PROXY) as resolver:
        await client.put(keys.traffic(app), record(app, 4))
        assert weights(resolver) == [], "proxies do it themselves"


class Late(EtcdClient):
    """Tells of traffic records only when it may; `looked` is set when the resolver has asked."""

    def __init__(self, known: EtcdClient) -> None:
        super().__init__(known.config)
        self.looked, self.may = asyncio.Event(), asyncio.Event()

    async def watch(self, prefix: str) -> AsyncGenerator[WatchEvent, None]:  # type: ignore[override]
        if prefix.endswith("/traffic"):
            self.looked.set()
            await self.may.wait()
        async with aclosing(super().watch(prefix)) as events:
            async for event in events:
                yield event


async def put_endpoint(client: EtcdClient, app: AppKey) -> None:
    record = endpoint(app)
    await client.put(keys.endpoint(app, record.role, record.deployment, record.id), encode(record))


async def test_no_endpoint_is_known_before_the_splits_are(client: EtcdClient, app: AppKey) -> None:
    await put_endpoint(client, app)
    await client.put(keys.traffic(app), record(app, 1))
    late = Late(client)
    resolver = Resolver(late, app)
    starting = asyncio.create_task(resolver.start(wait_s=60))
    try:
        await asyncio.wait_for(late.looked.wait(), 60)
        await until(lambda: resolver._cache.synced, "the endpoints")
        assert (resolver.view.endpoints, resolver.synced, starting.done()) == ((), False, False)
        views: list[tuple[list[str], list[int]]] = []
        resolver._cache.listen(lambda _: views.append((ids(resolver), weights(resolver))))
        late.may.set()
        await starting
        assert (ids(resolver), weights(resolver)) == (["net-r1-0"], [1])
        assert [view for view in views if view[0] and not view[1]] == [], "never one without the other"
    finally:
        await resolver.close()
        await late.close()


async def test_a_damaged_record_hides_no_endpoint(client: EtcdClient, app: AppKey) -> None:
    """Also where it is the first that is read, after the endpoints."""
    await put_endpoint(client, app)
    await client.put(keys.traffic(app), b"rubbish")
    late = Late(client)
    resolver = Resolver(late, app)
    starting = asyncio.create_task(resolver.start(wait_s=60))
    try:
        await until(lambda: resolver._cache.synced, "the endpoints")
        late.may.set()
        await starting
        assert (ids(resolver), weights(resolver)) == (["net-r1-0"], [])
    finally:
        await resolver.close()
        await late.close()


async def _seen(views: object, resolver: Resolver, wanted: list[int]) -> None:
    async for _ in views:  # type: ignore[attr-defined]
        if weights(resolver) == wanted:
            return


@pytest.mark.parametrize("comes_back", ["empty", "older"])
async def test_a_replaced_store_changes_nothing_until_the_master_writes_again(
    own_etcd: Callable[[], EtcdCluster], app: AppKey, comes_back: str
) -> None:
    etcd = await asyncio.to_thread(own_etcd)
    client = EtcdClient(etcd.config())
    await client.put(keys.traffic(app), record(app, 1, generation=2, version=5))
    async with resolving(client, app, grace_s=0.1) as resolver:
        await asyncio.to_thread(etcd.kill)
        etcd.wipe()
        assert weights(resolver) == [1], "etcd is away"
        await asyncio.to_thread(etcd.start)
        if comes_back == "older":
            await client.put(keys.traffic(app), record(app, 9, generation=2, version=4))
        await until(lambda: not resolver.view.stale, "a view of the new store")
        await asyncio.sleep(0.5)  # longer than endpoints are carried
        assert weights(resolver) == [1]
        await client.put(keys.traffic(app), record(app, 2, generation=2, version=6))
        await until(lambda: weights(resolver) == [2], "what the master wrote")
    await client.close()
