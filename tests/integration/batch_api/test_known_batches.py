"""The batches of a tenant as a gateway follows them: always what etcd has, and no more decoded than what is new."""

from __future__ import annotations

import asyncio
import random
import secrets
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from serving._proto import batch_pb2 as pb
from serving.batch.orders import known
from serving.batch.orders.batch import CANCEL, CLAIM, STATUS, Batch, read_batches
from serving.batch.orders.book import OrderBook
from serving.batch.orders.known import KnownBatches, Picture
from serving.config import EtcdConfig
from serving.errors import StoreUnavailable
from serving.local.etcd import EtcdCluster
from serving.stamps import stamp
from serving.store import EtcdClient, keys
from serving.store.records import encode
from serving.store.types import KeyValue, Op, Snapshot
from tests.support.batches import T0, order_of
from tests.support.etcd_server import StartEtcd
from tests.support.waiting import eventually_async


class Reads:
    """How many keys were decoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keys = 0

        def counted(kvs: Iterable[KeyValue]) -> dict[tuple[str, str], Batch]:
            found = list(kvs)
            self.keys += len(found)
            return read_batches(found)

        monkeypatch.setattr(known, "read_batches", counted)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


@pytest.fixture
def namespace() -> str:
    return f"n{secrets.token_hex(4)}"


async def put_order(store: EtcdClient, namespace: str, number: int, *, at: float = T0) -> str:
    order = order_of(f"batch_{number:04}", namespace=namespace, created=at + number)
    await store.put(keys.batch(namespace, order.id, "order"), encode(order))
    return order.id


async def put_status(store: EtcdClient, namespace: str, name: str, completed: int) -> None:
    status = pb.BatchStatus(state=pb.IN_PROGRESS, epoch=1, completed=completed)
    await store.put(keys.batch(namespace, name, STATUS), encode(status))


async def remove(store: EtcdClient, prefix: str) -> None:
    assert (await store.txn([], [Op.delete_prefix(prefix)])).succeeded


def ids(found: Sequence[Batch]) -> list[str]:
    return [one.id for one in found]


async def is_what_etcd_has(picture: Picture, store: EtcdClient, namespace: str) -> None:
    there = read_batches((await store.get_prefix(keys.batches(namespace))).kvs)
    assert picture.batches == {name: batch for (_, name), batch in there.items()}
    assert ids(picture.newest_first) == sorted(picture.batches, reverse=True)


async def test_only_what_is_new_is_decoded(store: EtcdClient, namespace: str, reads: Reads) -> None:
    names = [await put_order(store, namespace, number) for number in range(200)]
    batches = KnownBatches(store)
    first = await batches.read(namespace)
    assert (len(first.batches), reads.keys) == (200, 200)
    assert (await batches.read(namespace)).newest_first is first.newest_first
    assert reads.keys == 200
    await put_status(store, namespace, names[3], 7)
    now = await batches.read(namespace)
    assert reads.keys == 202, "its order and its status"
    status = now.batches[names[3]].status
    assert status is not None
    assert status.completed == 7
    assert first.batches[names[3]].status is None, "a picture stays as it is"
    await remove(store, keys.batch(namespace, names[5], ""))
    await put_order(store, namespace, 900)
    await is_what_etcd_has(await batches.read(namespace), store, namespace)
    assert reads.keys == 203


async def test_whatever_happens_between_two_looks(store: EtcdClient, namespace: str) -> None:
    chance, batches, numbers = random.Random(7), KnownBatches(store), range(12)
    for _ in range(60):
        for _ in range(chance.randrange(4)):
            number, part = chance.choice(numbers), chance.choice([STATUS, CLAIM, CANCEL])
            name = f"batch_{number:04}"
            step = chance.randrange(5)
            if step == 0:
                await put_order(store, namespace, number)
            elif step == 1:
                await remove(store, keys.batch(namespace, name, ""))
            elif step == 2:
                await remove(store, keys.batch(namespace, name, part))
            elif step == 3:
                await store.put(keys.batch(namespace, name, CLAIM), encode(pb.BatchClaim(runner="r", epoch=step)))
            else:
                await put_status(store, namespace, name, chance.randrange(99))
        await is_what_etcd_has(await batches.read(namespace), store, namespace)


async def test_one_that_looks_beside_others_and_is_cut_off(store: EtcdClient, namespace: str) -> None:
    batches = KnownBatches(store)
    for number in range(20):
        await put_order(store, namespace, number)
        looks = [asyncio.create_task(batches.read(namespace)) for _ in range(4)]
        await asyncio.sleep(0.001 * (number % 4))
        looks[0].cancel()
        done = await asyncio.gather(*looks, return_exceptions=True)
        assert [isinstance(one, Picture) for one in done[1:]] == [True] * 3
        await is_what_etcd_has(await batches.read(namespace), store, namespace)


class Held(EtcdClient):
    """Each listing waits until it is let go, and may then fail."""

    def __init__(self, config: EtcdConfig) -> None:
        super().__init__(config)
        self.began = 0
        self.go = asyncio.Event()
        self.fails = False

    async def get_prefix(self, prefix: str) -> Snapshot:
        self.began += 1
        await self.go.wait()
        if self.fails:
            raise StoreUnavailable(f"list {prefix}: nobody answers")
        return await super().get_prefix(prefix)


async def test_who_waits_shares_the_next_look_and_its_failure(etcd: EtcdCluster, namespace: str) -> None:
    """While etcd is away nobody waits for the looks of others to fail one after the other."""
    client = Held(etcd.config())
    try:
        client.fails = True
        batches = KnownBatches(client)
        first = asyncio.create_task(batches.read(namespace))
        await eventually_async(lambda: client.began == 1, what="the first look began")
        others = [asyncio.create_task(batches.read(namespace)) for _ in range(20)]
        await asyncio.sleep(0)
        others[0].cancel()
        client.go.set()
        done = await asyncio.gather(first, *others, return_exceptions=True)
        assert [type(one) for one in done] == [StoreUnavailable, asyncio.CancelledError, *[StoreUnavailable] * 19]
        assert client.began == 2
    finally:
        await client.close()


async def test_no_look_is_older_than_who_asked(etcd: EtcdCluster, namespace: str) -> None:
    client = Held(etcd.config())
    try:
        batches = KnownBatches(client)
        first = asyncio.create_task(batches.read(namespace))
        await eventually_async(lambda: client.began == 1, what="the first look began")
        name = await put_order(client, namespace, 1)
        second = asyncio.create_task(batches.read(namespace))
        client.go.set()
        assert name in (await second).batches
        await first
    finally:
        await client.close()


async def test_of_many_tenants_the_last_ones_are_kept(store: EtcdClient, reads: Reads) -> None:
    tenants = [f"n{secrets.token_hex(4)}" for _ in range(4)]
    for tenant in tenants:
        for number in range(5):
            await put_order(store, tenant, number)
    batches = KnownBatches(store, most=10)
    for tenant in tenants:
        assert len((await batches.read(tenant)).batches) == 5
    assert reads.keys == 20
    await batches.read(tenants[3])
    await batches.read(tenants[2])
    assert reads.keys == 20
    await batches.read(tenants[0])
    assert reads.keys == 25


async def test_a_store_that_comes_back_empty_is_read_anew(own_etcd: StartEtcd, namespace: str) -> None:
    server = own_etcd()
    client = EtcdClient(server.config())
    try:
        batches = KnownBatches(client)
        for number in range(9):
            await put_order(client, namespace, number)
        assert len((await batches.read(namespace)).batches) == 9
        server.kill()
        server.wipe()
        server.start()
        await put_order(client, namespace, 100)
        assert ids((await batches.read(namespace)).newest_first) == ["batch_0100"]
    finally:
        await client.close()


async def set_back(server: EtcdCluster, saved: Path) -> None:
    """To what was saved, with the same cluster id."""
    data = server.members[0].data_dir
    server.stop()
    shutil.rmtree(data)
    shutil.copytree(saved, data)
    server.start()


async def save(server: EtcdCluster, saved: Path) -> None:
    server.stop()
    shutil.copytree(server.members[0].data_dir, saved)
    server.start()


async def revision_of(client: EtcdClient) -> int:
    return (await client.status()).revision


async def test_a_store_that_was_set_back_and_has_come_to_the_same_revision(
    own_etcd: StartEtcd, namespace: str, tmp_path: Path
) -> None:
    server = own_etcd()
    client = EtcdClient(server.config())
    try:
        other, now = "elsewhere", time.time()
        gateway, beside = (OrderBook(client, max_unfinished=9) for _ in range(2))
        old = order_of("batch_old", namespace=namespace, created=now)
        await gateway.create(old, now)
        await save(server, tmp_path / "saved")
        lost = order_of("batch_lost", namespace=namespace, created=now)
        await gateway.create(lost, now)
        seen = (await gateway.known.read(namespace)).revision
        await set_back(server, tmp_path / "saved")
        assert await revision_of(client) < seen
        anew = order_of("batch_anew", namespace=namespace, created=now)
        assert (await beside.create(anew, now))[1] is False
        while await revision_of(client) <= seen:
            await put_status(client, other, "batch_1", 1)
        assert {one.id for one in await gateway.of_namespace(namespace)} == {"batch_old", "batch_anew"}
        assert (await gateway.create(lost, now))[1] is False, "it was lost, and is stored now"
        await is_what_etcd_has_of(gateway, client, namespace)
    finally:
        await client.close()


async def is_what_etcd_has_of(book: OrderBook, store: EtcdClient, namespace: str) -> None:
    there = read_batches((await store.get_prefix(keys.batches(namespace))).kvs)
    assert set((await book.known.read(namespace)).batches) == {name for _, name in there}


async def test_whatever_happens_in_another_past_is_seen(own_etcd: StartEtcd, namespace: str, tmp_path: Path) -> None:
    """As many keys, of the same names, written at other revisions."""
    server = own_etcd()
    client = EtcdClient(server.config())
    try:
        batches = KnownBatches(client)
        names = [await put_order(client, namespace, number) for number in range(3)]
        await put_status(client, namespace, names[0], 1)
        await put_status(client, namespace, names[1], 1)
        await save(server, tmp_path / "saved")
        await put_status(client, namespace, names[0], 2)
        await put_status(client, namespace, names[1], 2)
        seen = (await batches.read(namespace)).revision
        await set_back(server, tmp_path / "saved")
        await put_status(client, namespace, names[0], 7)
        while await revision_of(client) <= seen:
            await put_status(client, "elsewhere", "batch_1", 1)
        await put_status(client, namespace, names[1], 9)
        await is_what_etcd_has(await batches.read(namespace), client, namespace)
    finally:
        await client.close()


async def test_a_repeat_of_an_order_that_is_gone_orders_it_anew(store: EtcdClient, namespace: str) -> None:
    """Whatever a gateway remembers: the order's key is read before a repeat is answered."""
    book, now = OrderBook(store, max_unfinished=9), time.time()
    order = order_of("batch_1", namespace=namespace, created=now)
    await book.create(order, now)
    stale = await book.known.read(namespace)
    await remove(store, keys.batch(namespace, order.id, ""))

    class Stale(KnownBatches):
        """Shows the old picture until it is told that it is wrong."""

        async def read(self, namespace: str) -> Picture:
            return stale if not self.told else await super().read(namespace)

        told = False

        def forget(self, namespace: str) -> None:
            self.told = True
            super().forget(namespace)

    book.known = Stale(store)
    assert (await book.create(order, now))[1] is False
    assert (await book.create(order, now))[1] is True
    assert (await book.get(namespace, order.id)).order == order


async def test_a_book_shows_each_order_at_once(store: EtcdClient, namespace: str) -> None:
    """At any gateway."""
    books = [OrderBook(store, max_unfinished=100) for _ in range(2)]
    made: list[str] = []
    for number in range(12):
        fields: dict[str, Any] = {"namespace": namespace, "created": time.time()}
        batch, _ = await books[number % 2].create(order_of(f"batch_{number}", **fields), time.time())
        made.insert(0, batch.id)
        for book in books:
            assert ids(await book.of_namespace(namespace)) == made
    gone = made[4]
    await store.put(keys.batch(namespace, gone, CANCEL), encode(pb.BatchCancel(asked_at=stamp(T0))))
    assert {one.id: one.cancel is not None for one in await books[0].of_namespace(namespace)}[gone]
