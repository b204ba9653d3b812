"""Orders, deletions and sweeps with what others write between their look and their step, at a real etcd."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from serving._proto import batch_pb2 as pb
from serving.batch.orders.batch import CLAIM, STATUS
from serving.batch.orders.book import Input, OrderBook
from serving.batch.store.content import ContentStore
from serving.batch.store.files import INPUT, FileBook, FileInUse, FileLimits, file_record, new_file_id
from serving.batch.store.sweeping import Sweeper
from serving.errors import AlreadyExists, NotFound, ResourceExhausted
from serving.local.etcd import EtcdCluster
from serving.store import EtcdClient, keys
from serving.store.records import encode
from serving.store.types import Compare, Op, TxnResult
from tests.support.batches import order_of

Step = Callable[[], Awaitable[object]]


class Interrupted(EtcdClient):
    """Somebody else does `step` before each of its transactions."""

    step: Step | None = None

    async def txn(self, compares: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op] = ()) -> TxnResult:
        if self.step is not None:
            await self.step()
        return await super().txn(compares, then, otherwise)


@asynccontextmanager
async def interrupted(etcd: EtcdCluster, step: Step) -> AsyncIterator[Interrupted]:
    client = Interrupted(etcd.config())
    client.step = step
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture
def namespace() -> str:
    return f"n{secrets.token_hex(4)}"


@pytest.fixture
def content(tmp_path: Path) -> ContentStore:
    made = ContentStore(str(tmp_path))
    made.start()
    return made


def files_of(store: EtcdClient, content: ContentStore, *, files: int = 9) -> FileBook:
    return FileBook(store, content, FileLimits(files, 1 << 20))


def kept(content: ContentStore, namespace: str, now: float, *, file_id: str = "", data: bytes = b"x") -> pb.FileRecord:
    writing = content.begin()
    writing.write(data)
    made = writing.keep(namespace)
    name = file_id or new_file_id()
    return file_record(namespace, name, made, filename="f", purpose=INPUT, now=now, expires_after_s=3600)


async def running(store: EtcdClient, namespace: str, name: str = "batch_running") -> Step:
    """A batch that is claimed, and what its runner does every second."""
    order = order_of(name, namespace=namespace, created=time.time(), input_file="file-other")
    await OrderBook(store, max_unfinished=99).create(order, time.time())
    status = pb.BatchStatus(state=pb.IN_PROGRESS, epoch=1)
    await store.put(keys.batch(namespace, name, CLAIM), encode(pb.BatchClaim(runner="r", cluster="c", epoch=1)))

    async def write() -> None:
        status.completed += 1
        await store.put(keys.batch(namespace, name, STATUS), encode(status))

    await write()
    return write


async def test_running_batches_hold_up_no_order(store: EtcdClient, etcd: EtcdCluster, namespace: str) -> None:
    async with interrupted(etcd, await running(store, namespace)) as client:
        made, repeated = await OrderBook(client, max_unfinished=2).create(
            order_of(namespace=namespace, created=time.time()), time.time()
        )
        assert (made.id, repeated) == ("batch_1", False)
        with pytest.raises(ResourceExhausted):
            await OrderBook(client, max_unfinished=2).create(
                order_of("batch_2", namespace=namespace, created=time.time()), time.time()
            )


async def test_running_batches_hold_up_no_deletion(
    store: EtcdClient, etcd: EtcdCluster, namespace: str, content: ContentStore
) -> None:
    now = time.time()
    record, _ = await files_of(store, content).create(kept(content, namespace, now), now)
    async with interrupted(etcd, await running(store, namespace)) as client:
        await files_of(client, content).delete(namespace, record.id, now)
    with pytest.raises(NotFound):
        await files_of(store, content).get(namespace, record.id, now)
    assert not content.path(record.uri).exists()


async def test_what_is_ordered_meanwhile_counts(store: EtcdClient, etcd: EtcdCluster, namespace: str) -> None:
    other = order_of("batch_other", namespace=namespace, created=time.time())

    async def order() -> None:
        await OrderBook(store, max_unfinished=99).create(other, time.time())

    async with interrupted(etcd, order) as client:
        with pytest.raises(ResourceExhausted):
            await OrderBook(client, max_unfinished=1).create(
                order_of(namespace=namespace, created=time.time()), time.time()
            )


async def test_an_input_that_is_ordered_meanwhile_stays(
    store: EtcdClient, etcd: EtcdCluster, namespace: str, content: ContentStore
) -> None:
    """Whoever ordered it found it before it expired."""
    created = time.time()
    record, _ = await files_of(store, content).create(kept(content, namespace, created), created)
    order = order_of(namespace=namespace, created=created, input_file=record.id, window_s=24 * 3600)

    async def there() -> Input:
        return Input(record.bytes, Compare.exists(keys.file(namespace, record.id)))

    async def take() -> None:
        await OrderBook(store, max_unfinished=9).create(order, created, there)

    async with interrupted(etcd, take) as client:
        with pytest.raises(FileInUse):
            await files_of(client, content).delete(namespace, record.id, created)
    await OrderBook(store, max_unfinished=9).cancel(namespace, order.id, created)
    order.id = "batch_2"
    expired = created + 3601
    async with interrupted(etcd, take) as client:
        sweeper = Sweeper(client, content, keep_ended_s=1e9, max_ended=99)
        assert (await sweeper.sweep(expired)).files == 0
        assert content.path(record.uri).exists()
        assert await store.get(keys.file(namespace, record.id)) is not None
    await OrderBook(store, max_unfinished=9).cancel(namespace, order.id, expired)
    sweeper = Sweeper(store, content, keep_ended_s=1e9, max_ended=99)
    assert (await sweeper.sweep(expired + 1)).files == 1
    assert not content.path(record.uri).exists()


async def test_an_expired_file_that_is_sent_again_begins_anew(
    store: EtcdClient, namespace: str, content: ContentStore
) -> None:
    book, now = files_of(store, content, files=1), time.time()
    first, _ = await book.create(kept(content, namespace, now), now)
    again, repeated = await book.create(kept(content, namespace, now + 60, file_id=first.id), now + 60)
    assert (again, repeated) == (first, True)
    later = now + 3601
    with pytest.raises(AlreadyExists, match="digest"):
        await book.create(kept(content, namespace, later, file_id=first.id, data=b"y"), later)
    renewed, repeated = await book.create(kept(content, namespace, later, file_id=first.id), later)
    assert (renewed.uri, repeated) == (first.uri, True)
    assert renewed.expires_at.ToNanoseconds() > first.expires_at.ToNanoseconds()
    assert await book.get(namespace, first.id, later) == renewed
    with pytest.raises(ResourceExhausted):
        await book.create(kept(content, namespace, later), later)
    await book.check_room(namespace, first.id, later)
    with pytest.raises(ResourceExhausted):
        await book.check_room(namespace, new_file_id(), later)
