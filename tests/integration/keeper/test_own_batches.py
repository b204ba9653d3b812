"""Batches of mode `own` at real keepers and a real etcd; clusters, masters and runners are played by the test."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from keeper_harness import Bench, KeeperProcess, eventually, name_of, page_of, spec, wipe
from own_batches import begin, end, ordered

from keeper.config import KeeperConfig
from keeper.own_apps import OwnBatches, app_key
from keeper.process import Keeper
from keeper.quota import Limit, Quotas
from serving._proto import keeper_pb2, records_pb2
from serving._proto import keeper_pb2_grpc as rpc
from serving.batch.orders.batch import Batch
from serving.batch.orders.book import OrderBook
from serving.batch.orders.claims import read_batch
from serving.batch.orders.view import view
from serving.local.etcd import EtcdCluster
from serving.store import Changes, EtcdClient, Resync, keys
from serving.store.keys import AppKey
from serving.store.records import decode, encode
from serving.timeouts import cancel_and_wait
from tests.support.moments import Moment, at_each, ended, moments, turn_of

pytestmark = pytest.mark.timeout(600)


async def stored(client: EtcdClient, batch: Batch) -> records_pb2.StoredSpec | None:
    kv = await client.get(keys.spec(app_key(batch.name)))
    return None if kv is None else decode(records_pb2.StoredSpec, kv.value)


async def made(client: EtcdClient, batch: Batch, *, other_than: str = "") -> records_pb2.StoredSpec:
    """The spec of the batch's application, as soon as it is there and not being deleted."""

    async def look() -> records_pb2.StoredSpec | None:
        found = await stored(client, batch)
        return found if found is not None and not found.deleting and found.uid != other_than else None

    found = await eventually(look, what=f"an application of {batch.id}")
    assert found is not None
    return found


async def gone(client: EtcdClient, batch: Batch) -> None:
    async def look() -> bool:
        return await stored(client, batch) is None

    await eventually(look, what=f"the application of {batch.id} is gone")


async def says(client: EtcdClient, batch: Batch, text: str) -> None:
    async def look() -> bool:
        told = view(await read_batch(client, *batch.name), time.time())["message"]
        assert text in (told or ""), told
        return True

    await eventually(look, what=f"{batch.id} says {text!r}")


class Inside:
    """A keeper in this process: it starts at once."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self.channel = grpc.aio.insecure_channel(keeper.address)
        self.stub: Any = rpc.KeeperStub(self.channel)  # type: ignore[no-untyped-call]


@contextlib.asynccontextmanager
async def inside(bench: Bench, **settings: Any) -> AsyncIterator[Inside]:
    config = KeeperConfig(
        bench.etcd, metrics_listen="127.0.0.1:0", stop_grace_s=0.05, **{"election_ttl_s": 10, **settings}
    )
    keeper = Keeper(config)
    await keeper.start()
    running = asyncio.create_task(keeper.run())
    made = Inside(keeper)
    try:
        yield made
        assert not running.done()
    finally:
        await cancel_and_wait(running)
        await made.channel.close()
        await keeper.stop()


@pytest.fixture
async def alone(bench: Bench) -> AsyncIterator[Inside]:
    async with inside(bench) as made:
        yield made


async def test_an_application_from_the_order_to_the_end_of_the_batch(bench: Bench, alone: Inside) -> None:
    await bench.cluster("east")
    batch, shared = await ordered(bench.client), await ordered(bench.client, mode="")
    key = app_key(batch.name)
    spec_made = await made(bench.client, batch)
    (runner,) = spec_made.spec.deployments
    assert (runner.batch.batch_id, list(runner.batch.namespaces), runner.batch.concurrency) == (
        batch.id,
        ["default"],
        1,
    )
    await bench.placed("east", generation=1, key=key)
    await says(bench.client, batch, "placed on cluster east")
    assert view(await read_batch(bench.client, *batch.name), time.time())["application"] == key.name
    claimed, lease = await begin(bench, batch)

    async def silent() -> bool:
        return view(await read_batch(bench.client, *batch.name), time.time())["message"] is None

    await eventually(silent, what="a batch with a runner waits for nothing")

    async def told() -> bool:
        page = await page_of(alone.keeper.metrics_address, "/metrics")
        return 'mesh_keeper_own_batches{state="placed"} 1.0' in page

    await eventually(told)
    await end(claimed)
    await gone(bench.client, batch)
    await lease.revoke()
    assert await stored(bench.client, shared) is None
    kinds = [one.kind for one in alone.keeper.events.all() if one.kind.startswith("batch-app")]
    assert list(dict.fromkeys(kinds)) == ["batch-app-made", "batch-app-deleted"]


@pytest.mark.usefixtures("alone")
async def test_one_that_is_cancelled_or_over_before_it_began_leaves_nothing(bench: Bench) -> None:
    cancelled = await ordered(bench.client)
    await made(bench.client, cancelled)  # so the keeper leads
    short = await ordered(bench.client, window_s=4)

    async def made_or_too_late() -> bool:
        return await stored(bench.client, short) is not None or time.time() > short.order.expires_at.ToSeconds()

    await eventually(made_or_too_late)
    await OrderBook(bench.client, max_unfinished=9).cancel(*cancelled.name, time.time())
    for batch in (cancelled, short):
        await gone(bench.client, batch)


async def test_one_deleted_by_hand_is_made_again(bench: Bench, alone: Inside) -> None:
    stub = alone.stub
    batch = await ordered(bench.client)
    first = await made(bench.client, batch)
    await stub.DeleteApplication(name_of(app_key(batch.name)), timeout=60)
    second = await made(bench.client, batch, other_than=first.uid)
    assert second.spec == first.spec


async def test_users_applications_and_names_are_kept_apart(bench: Bench, alone: Inside) -> None:
    stub = alone.stub
    batch_id = f"batch_{secrets.token_hex(16)}"
    key = app_key(("default", batch_id))

    async def refused(wish: Any, text: str) -> None:
        with pytest.raises(grpc.aio.AioRpcError, match=text) as error:
            await stub.Deploy(keeper_pb2.DeployRequest(spec=wish), timeout=60)
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    await refused(spec(key.name), "kept for the application of a single batch")
    forged = spec()
    del forged.deployments[:]
    forged.deployments.add(name="r", replicas=records_pb2.Replicas(min=1, max=1)).batch.batch_id = batch_id
    await refused(forged, "batch_id")
    theirs = records_pb2.StoredSpec(spec=spec(key.name), revision=1, uid="theirs")  # of before the name was kept
    await bench.client.put(keys.spec(key), encode(theirs))
    batch = await ordered(bench.client, batch_id=batch_id)
    await says(bench.client, batch, "somebody's")
    assert await stored(bench.client, batch) == theirs
    claimed, lease = await begin(bench, batch)
    await end(claimed)
    other = await ordered(bench.client)  # the keeper has seen that end by the time that this one is made
    await made(bench.client, other)
    assert await stored(bench.client, batch) == theirs
    await lease.revoke()
    await stub.DeleteApplication(name_of(key), timeout=60)
    await gone(bench.client, batch)


async def test_what_a_quota_or_the_bound_refuses_waits_and_says_why(bench: Bench) -> None:
    quotas = Quotas(default=Limit(applications=3))
    async with inside(bench, quotas=quotas, batch_own=OwnBatches(most_per_namespace=2, cpus=0.25)) as keeper:
        await refused_by_quota_then_by_bound(bench, keeper.stub)


async def refused_by_quota_then_by_bound(bench: Bench, stub: Any) -> None:
    for name in ("shop", "other"):
        await stub.Deploy(keeper_pb2.DeployRequest(spec=spec(name)), timeout=60)
    batches = [await ordered(bench.client)]
    await made(bench.client, batches[0])
    batches += [await ordered(bench.client), await ordered(bench.client)]
    for batch in batches[1:]:
        await says(bench.client, batch, "the quota of namespace default is exceeded: 3 applications allowed")
    for name in ("shop", "other"):
        await stub.DeleteApplication(name_of(AppKey("default", name)), timeout=60)

    async def counted() -> bool:
        found = [await stored(bench.client, batch) for batch in batches]
        assert sum(one is not None for one in found) == 2
        return True

    await eventually(counted)
    (waits,) = [batch for batch in batches if await stored(bench.client, batch) is None]
    await says(bench.client, waits, "2 batches of default have one, the most at once")


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("away_s", [0.5, 4.0])
async def test_etcd_away_takes_nothing_and_is_made_up_for(bench: Bench, etcd: EtcdCluster, away_s: float) -> None:
    ends, stays = await ordered(bench.client), await ordered(bench.client)
    for batch in (ends, stays):
        await made(bench.client, batch)
    claimed, _lease = await begin(bench, ends)
    before = await stored(bench.client, stays)
    await asyncio.to_thread(etcd.kill)
    await asyncio.sleep(away_s)  # from a moment without etcd to a lost leadership
    await asyncio.to_thread(etcd.start)
    await end(claimed)
    later = await ordered(bench.client)
    await made(bench.client, later)
    await gone(bench.client, ends)
    assert await stored(bench.client, stays) == before


class Watching:
    """Every creation of an application of a batch that etcd ever saw."""

    def __init__(self, client: EtcdClient) -> None:
        self.uids: dict[str, set[str]] = {}
        self._client = client

    async def follow(self) -> None:
        async for event in self._client.watch(keys.APPS):
            kvs = event.snapshot.kvs if isinstance(event, Resync) else event.puts if isinstance(event, Changes) else ()
            for kv in kvs:
                parsed = keys.parse_app(kv.key)
                if parsed is not None and parsed[1] == "spec":
                    self.uids.setdefault(parsed[0].name, set()).add(decode(records_pb2.StoredSpec, kv.value).uid)


async def test_two_keepers_that_are_killed_at_any_moment_make_each_application_once(bench: Bench) -> None:
    for name in ("k0", "k1"):
        await bench.keeper(name)
    watching = Watching(bench.client)
    following = asyncio.create_task(watching.follow())
    chance, batches, ended = random.Random(7), [], []
    for round_ in range(2):
        leader = await bench.leader()
        new = [await ordered(bench.client) for _ in range(3)]
        if batches:
            ended.append(batches.pop(0))
            await OrderBook(bench.client, max_unfinished=9).cancel(*ended[-1].name, time.time())
        batches += new
        await asyncio.sleep(chance.random() * 0.1)  # somewhere between the first order and the last note
        leader.process.kill()
        await killed_is_replaced(bench, leader, f"k{round_ + 2}")
        for batch in batches[:4]:
            await made(bench.client, batch)
    for batch in ended:
        await gone(bench.client, batch)
    await cancel_and_wait(following)
    assert {name: len(uids) for name, uids in watching.uids.items() if len(uids) > 1} == {}


async def killed_is_replaced(bench: Bench, dead: KeeperProcess, name: str) -> None:
    bench.keepers.remove(dead)
    await dead.end()
    await bench.keeper(name)


async def test_a_keeper_that_ends_at_any_moment_leaves_spec_and_note_together(etcd: EtcdCluster) -> None:
    config = KeeperConfig(etcd.config(), stop_grace_s=0.05, adopt_grace_s=0.0)
    client = EtcdClient(etcd.config())

    async def consistent(batch: Batch) -> bool:
        """Whether it is made; the note never without it, nor it without the note."""
        note = (await read_batch(client, *batch.name)).application
        found = await stored(client, batch)
        assert (note is not None and bool(note.name)) == (found is not None)
        return found is not None

    outcomes: set[bool] = set()

    async def scenario(moment: Moment) -> None:
        keeper = Keeper(config)
        await keeper.start()
        running = asyncio.create_task(keeper.run())
        await turn_of(lambda: keeper.leads and keeper._own._orders.fresh)
        ordering = asyncio.create_task(ordered(client))
        await moment.come(running)
        running.cancel()
        await ended(running, moment)
        await keeper.stop()
        outcomes.add(await consistent(await ordering))
        for prefix in (keys.BATCHES, keys.APPS):
            await client.delete_prefix(prefix)

    await at_each(scenario, moments(turns=4, seconds=(0.02, 0.05, 0.1, 0.2, 4.0)))
    assert outcomes == {False, True}
    await client.close()


async def test_a_wiped_store_takes_no_application_of_a_batch(bench: Bench, etcd: EtcdCluster) -> None:
    async with inside(bench, store_loss_grace_s=1.0, election_ttl_s=3):
        batch = await ordered(bench.client)
        before = await made(bench.client, batch)
        await wipe(etcd)
        assert (await made(bench.client, batch)).uid == before.uid  # written back from memory
        later = await ordered(bench.client)
        await made(bench.client, later)  # so the new leader has compared all batches with all applications
        after = await stored(bench.client, batch)
        assert after is not None
        assert (after.uid, after.deleting) == (before.uid, False)


async def test_an_application_without_an_order_waits_for_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async with inside(bench):
        batch = await ordered(bench.client)
        await made(bench.client, batch)
    await bench.client.delete_prefix(keys.batch(*batch.name, ""))
    async with inside(bench):  # which has never seen the order
        later = await ordered(bench.client)
        await made(bench.client, later)
        after = await stored(bench.client, batch)
        assert after is not None
        assert not after.deleting
        monkeypatch.setattr("keeper.own_reconciler.LOST_ORDER_GRACE_S", 0.0)
        await gone(bench.client, batch)
