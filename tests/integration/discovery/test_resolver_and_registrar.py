"""Endpoints that register themselves and views that follow them, while etcd comes and goes."""

from __future__ import annotations

import asyncio
import copy
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

import pytest

from serving._proto import records_pb2 as pb
from serving.config import EtcdConfig
from serving.discovery import EndpointView, Registrar, Resolver
from serving.errors import InvalidArgument, StoreUnavailable
from serving.local.etcd import EtcdCluster
from serving.local.ports import free_ports
from serving.store import AppKey, EtcdClient, Lease
from serving.store.records import decode, encode

LONG_S = 90.0
Own = Callable[[], EtcdCluster]


def endpoint(app: AppKey, endpoint_id: str = "net-r1-0", **fields: object) -> pb.Endpoint:
    values: dict[str, object] = {
        "id": endpoint_id,
        "address": "127.0.0.1:8001",
        "protocol": "kserve-grpc",
        "role": "direct",
        "namespace": app.namespace,
        "application": app.name,
        "deployment": "net",
        "state": "ready",
        "generation": 1,
        "revision": 1,
    }
    return pb.Endpoint(**{**values, **fields})  # type: ignore[arg-type]


@pytest.fixture
def app() -> AppKey:
    """Of no other test, also not of those of another file, to which this module is another one."""
    return AppKey("default", f"app-{uuid.uuid4().hex[:12]}")


@asynccontextmanager
async def resolving(client: EtcdClient, app: AppKey, **options: object) -> AsyncIterator[Resolver]:
    resolver = Resolver(client, app, **options)  # type: ignore[arg-type]
    await resolver.start(wait_s=LONG_S)
    try:
        yield resolver
    finally:
        await resolver.close()


@asynccontextmanager
async def registered(config: EtcdConfig, record: pb.Endpoint, ttl_s: int = 30) -> AsyncIterator[Registrar]:
    registrar = Registrar(config, record, ttl_s=ttl_s)
    await registrar.start()
    await registrar.wait_registered(LONG_S)
    try:
        yield registrar
    finally:
        await registrar.close()


async def next_view(views: AsyncIterator[EndpointView], wanted: Callable[[EndpointView], bool]) -> EndpointView:
    """The next such view: on a slow machine one may tell only that etcd seemed to be away."""
    while True:
        view = await asyncio.wait_for(anext(views), LONG_S)
        if not view.stale and wanted(view):
            return view


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = asyncio.get_running_loop().time() + LONG_S
    over = False
    while not condition():
        assert not over, f"not in time: {what}"
        await asyncio.sleep(0.01)
        over = asyncio.get_running_loop().time() > deadline  # before the look: after a stall there is one more


def ids(resolver: Resolver) -> list[str]:
    return [item.id for item in resolver.view.endpoints]


async def test_an_endpoint_appears_changes_and_leaves(client: EtcdClient, app: AppKey) -> None:
    async with resolving(client, app) as resolver, aclosing(resolver.subscribe()) as views:
        assert (await anext(views)).endpoints == ()
        record = endpoint(app, models=[pb.ModelRecord(name="digits", versions=["1"])])
        async with registered(client.config, record) as registrar:
            view = await next_view(views, lambda view: bool(view.endpoints))
            assert view.endpoints == (record,)
            assert (view.stale, view.stale_for_s, view.carried) == (False, 0.0, frozenset())
            assert registrar.registered
            kv = await client.get(registrar.key)
            assert kv is not None
            assert kv.lease == registrar.lease != 0
            ready = copy.deepcopy(record)
            record.state = "draining"
            await registrar.update(record)
            await registrar.wait_registered(LONG_S)
            view = await next_view(views, lambda view: view.endpoints != (ready,))
            assert [item.state for item in view.endpoints] == ["draining"]
            assert view.ready == ()
            await registrar.withdraw()
            assert await client.get(registrar.key) is None
            await next_view(views, lambda view: view.endpoints == ())
            await registrar.withdraw()


async def test_roles_and_generations(client: EtcdClient, app: AppKey) -> None:
    old, proxy, new = (
        endpoint(app, "old"),
        endpoint(app, "p", role="proxy", deployment="front"),
        endpoint(app, "new", generation=2),
    )
    async with (
        resolving(client, app) as direct,
        resolving(client, app, role="") as every,
        registered(client.config, old),
        registered(client.config, proxy),
    ):
        await until(lambda: ids(every) == ["old", "p"], "both roles")
        assert ids(direct) == ["old"]
        async with registered(client.config, new):
            await until(lambda: ids(direct) == ["new"] and ids(every) == ["new", "p"], "only the newer generation")
        await until(lambda: ids(direct) == ["old"], "the older one serves when there is no newer one")


async def test_rubbish_beside_an_endpoint_is_ignored(client: EtcdClient, app: AppKey) -> None:
    async with registered(client.config, endpoint(app)) as registrar, resolving(client, app) as resolver:
        base = registrar.key.rpartition("/")[0]
        await client.put(f"{base}/rubbish", b"\xff\x00")
        await client.put(f"{base}/empty", b"{}")
        await client.put(f"{base}/deep/er", encode(endpoint(app, "deeper")))
        await client.put(f"{base}/last", encode(endpoint(app, "last")))
        await until(lambda: "last" in ids(resolver), "the last record")
        assert ids(resolver) == ["last", "net-r1-0"]


async def test_an_endpoint_registers_again_whatever_happens_to_its_key(client: EtcdClient, app: AppKey) -> None:
    async with registered(client.config, endpoint(app), ttl_s=60) as registrar, resolving(client, app) as resolver:
        before = resolver.view.revision
        await client.delete(registrar.key)
        await until(lambda: resolver.view.revision >= before + 2 and ids(resolver) == ["net-r1-0"], "it is back")
        rubbish = await client.put(registrar.key, b"rubbish")
        await until(lambda: resolver.view.revision > rubbish and ids(resolver) == ["net-r1-0"], "it is right again")
        lease = registrar.lease
        await client.revoke(lease)
        await until(lambda: registrar.lease not in (0, lease), "a new lease")
        await registrar.wait_registered(LONG_S)
        await until(lambda: ids(resolver) == ["net-r1-0"], "it is back under the new lease")


async def test_an_older_generation_yields_to_a_newer_one_of_the_same_name(client: EtcdClient, app: AppKey) -> None:
    async with registered(client.config, endpoint(app, generation=1)) as old:
        newer = endpoint(app, generation=2, address="127.0.0.1:9")
        async with registered(client.config, newer) as new:
            await until(lambda: old.fenced, "that the older one yields")
            await asyncio.sleep(0.2)
            kv = await client.get(new.key)
            assert kv is not None
            assert decode(pb.Endpoint, kv.value) == newer
            assert not old.registered
            assert new.registered
            late = Registrar(client.config, endpoint(app, generation=1))
            await late.start()
            await until(lambda: late.fenced, "that one which starts late yields at once")
            await late.close()
            assert new.registered


async def test_a_restarted_process_takes_its_name_over(client: EtcdClient, app: AppKey) -> None:
    dead = Lease(client.config, ttl_s=60)
    await dead.start()
    async with resolving(client, app) as resolver:
        before = endpoint(app, address="127.0.0.1:1")
        await client.put(Registrar(client.config, before).key, encode(before), lease=dead.id)
        async with registered(client.config, endpoint(app, address="127.0.0.1:2")) as registrar:
            await dead.revoke()  # the end of the old process's lease does not take the new record with it
            kv = await client.get(registrar.key)
            assert kv is not None
            await until(lambda: resolver.view.revision >= kv.mod_revision, "the view to be up to date")
            assert [item.address for item in resolver.view.endpoints] == ["127.0.0.1:2"]


async def test_the_view_outlives_etcd_and_says_how_old_it_is(own_etcd: Own, app: AppKey) -> None:
    etcd = await asyncio.to_thread(own_etcd)
    client = EtcdClient(etcd.config())
    async with registered(etcd.config(), endpoint(app), ttl_s=5) as registrar, resolving(client, app) as resolver:
        await asyncio.to_thread(etcd.kill)
        await until(lambda: resolver.view.stale and not registrar.registered, "that both notice")
        first = resolver.view
        assert [item.id for item in first.endpoints] == ["net-r1-0"]
        await asyncio.sleep(0.05)
        assert resolver.view.stale_for_s > first.stale_for_s > 0
        await asyncio.to_thread(etcd.start)
        emptied: list[int] = []

        async def watch() -> None:
            async for view in resolver.subscribe():
                if not view.endpoints:
                    emptied.append(view.revision)

        watching = asyncio.create_task(watch())
        await registrar.wait_registered(LONG_S)
        await until(lambda: not resolver.view.stale, "a fresh view")
        await asyncio.sleep(6.0)  # longer than the old lease could live
        assert ids(resolver) == ["net-r1-0"]
        assert emptied == []
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    await client.close()


async def test_a_store_that_comes_back_empty_does_not_empty_the_view(own_etcd: Own, app: AppKey) -> None:
    etcd = await asyncio.to_thread(own_etcd)
    client = EtcdClient(etcd.config())
    lost, refused = endpoint(app, "lost", address="127.0.0.1:2"), endpoint(app, "refused", address="127.0.0.1:3")
    async with resolving(client, app, grace_s=20.0) as resolver:
        living = Registrar(etcd.config(), endpoint(app, "living"), ttl_s=30)
        await living.start()
        await living.wait_registered(LONG_S)
        for record in (lost, refused):
            await client.put(Registrar(etcd.config(), record).key, encode(record))
        await until(lambda: ids(resolver) == ["living", "lost", "refused"], "all three")
        await asyncio.to_thread(etcd.kill)
        etcd.wipe()
        seen: list[tuple[str, ...]] = []

        async def watch() -> None:
            async for view in resolver.subscribe():
                seen.append(tuple(item.id for item in view.endpoints))

        watching = asyncio.create_task(watch())
        await asyncio.to_thread(etcd.start)
        await until(lambda: "lost" in resolver.view.carried, "that the store was replaced")
        assert resolver.refused(refused) is True  # a client could not connect
        assert resolver.refused(refused) is False
        assert "lost" in ids(resolver)
        await until(lambda: ids(resolver) == ["living"] and not resolver.view.carried, "the end of the grace")
        await living.wait_registered(LONG_S)
        assert all("living" in view for view in seen), "the living endpoint was never out of the view"
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await living.close()
    await client.close()


async def test_starting_without_etcd(own_etcd: Own, app: AppKey) -> None:
    etcd = await asyncio.to_thread(own_etcd)
    await asyncio.to_thread(etcd.stop)
    client = EtcdClient(etcd.config())
    resolver = Resolver(client, app)
    registrar = Registrar(etcd.config(), endpoint(app))
    await registrar.start()  # an endpoint serves whether etcd answers or not
    with pytest.raises(StoreUnavailable, match="could not be read within"):
        await resolver.start(wait_s=0.1)
    with pytest.raises(StoreUnavailable, match="was not registered within"):
        await registrar.wait_registered(0.1)
    assert not resolver.synced
    assert resolver.view.stale
    await asyncio.to_thread(etcd.start)
    await until(lambda: ids(resolver) == ["net-r1-0"], "both find etcd")
    await resolver.close()
    await registrar.close()
    await client.close()


async def test_leaving_without_etcd_does_not_hang(app: AppKey) -> None:
    registrar = Registrar(EtcdConfig(endpoints=(f"127.0.0.1:{free_ports(1)[0]}",)), endpoint(app))
    await registrar.start()
    await asyncio.sleep(0.1)
    await asyncio.wait_for(registrar.close(), LONG_S)
    await registrar.close()


async def test_an_endpoint_that_nobody_could_use_is_refused(app: AppKey) -> None:
    config = EtcdConfig(endpoints=("127.0.0.1:1",))
    with pytest.raises(InvalidArgument, match=r"its address '' is not host:port"):
        Registrar(config, endpoint(app, address=""))
    registrar = Registrar(config, endpoint(app))
    with pytest.raises(InvalidArgument, match="it says that it belongs to"):
        await registrar.update(endpoint(app, "another"))
    await registrar.close()
