"""What sweepers remove, and what they must not, at a real etcd and a real folder."""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path

import pytest

from serving._proto import batch_pb2 as pb
from serving.batch.orders.book import OrderBook
from serving.batch.store.content import Content, ContentStore
from serving.batch.store.files import FileBook, FileLimits, file_record, new_file_id
from serving.batch.store.sweeping import LEFTOVER_S, Sweeper
from serving.store import EtcdClient, keys
from serving.store.records import encode
from tests.support.batches import T0, order_of

NOW = T0 + 40 * 24 * 3600
DAY_S = 24 * 3600.0


@pytest.fixture
def content(tmp_path: Path) -> ContentStore:
    made = ContentStore(str(tmp_path))
    made.start()
    return made


@pytest.fixture
def namespace() -> str:
    return f"n{secrets.token_hex(4)}"


def written(content: ContentStore, namespace: str, changed_at: float) -> Content:
    writing = content.begin()
    writing.write(b"data")
    made = writing.keep(namespace)
    os.utime(content.path(made.uri), (changed_at, changed_at))
    return made


async def recorded(store: EtcdClient, content: ContentStore, namespace: str, made: Content) -> pb.FileRecord:
    book = FileBook(store, content, FileLimits(99, 1 << 20))
    record = file_record(namespace, new_file_id(), made, filename="f", purpose="batch", now=T0, expires_after_s=3600)
    return (await book.create(record, T0))[0]


def sweeper(store: EtcdClient, content: ContentStore, *, max_ended: int = 99) -> Sweeper:
    return Sweeper(store, content, keep_ended_s=30 * DAY_S, max_ended=max_ended)


async def test_content_that_nobody_names_goes_after_a_day(
    store: EtcdClient, content: ContentStore, namespace: str
) -> None:
    old, young = (written(content, namespace, NOW - LEFTOVER_S + way) for way in (-60, 60))
    named = await recorded(store, content, namespace, written(content, namespace, T0))
    swept = await sweeper(store, content).sweep(T0 + 60)
    assert (swept.contents, swept.files) == (0, 0)
    swept = await sweeper(store, content).sweep(NOW)
    assert (swept.contents, swept.files) == (1, 1)
    there = [content.path(one.uri).exists() for one in (old, young, named)]
    assert there == [False, True, False]


async def test_a_record_that_cannot_be_read_keeps_its_namespace_s_content(
    store: EtcdClient, content: ContentStore, namespace: str
) -> None:
    made = written(content, namespace, NOW - 2 * LEFTOVER_S)
    await store.put(keys.file(namespace, "file-x"), b"rubbish")
    assert (await sweeper(store, content).sweep(NOW)).contents == 0
    assert content.path(made.uri).exists()
    await store.delete(keys.file(namespace, "file-x"))
    assert (await sweeper(store, content).sweep(NOW)).contents == 1


async def test_an_expired_file_that_a_batch_reads_stays(
    store: EtcdClient, content: ContentStore, namespace: str
) -> None:
    record = await recorded(store, content, namespace, written(content, namespace, NOW))
    order = order_of("batch_1", namespace=namespace, input_file=record.id, created=NOW - 10)
    book = OrderBook(store, max_unfinished=9)
    await book.create(order, NOW)
    assert (await sweeper(store, content).sweep(NOW)).files == 0
    await book.cancel(namespace, "batch_1", NOW)
    swept = await asyncio.gather(*(sweeper(store, content).sweep(NOW) for _ in range(3)))
    assert sum(one.files for one in swept) == 1
    assert not content.path(record.uri).exists()


async def test_batches_that_ended_long_ago_go(store: EtcdClient, content: ContentStore, namespace: str) -> None:
    book = OrderBook(store, max_unfinished=99)
    for days in (32, 31, 5, 4, 3, 0):  # the last one has not ended
        order = order_of(f"batch_{days}", namespace=namespace, created=NOW - days * DAY_S)
        await store.put(keys.batch(namespace, order.id, "order"), encode(order))
    begun = order_of("batch_begun", namespace=namespace, created=NOW - 31 * DAY_S)
    await store.put(keys.batch(namespace, begun.id, "order"), encode(begun))
    await store.put(keys.batch(namespace, begun.id, "claim"), encode(pb.BatchClaim(runner="r", epoch=1)))
    await store.put(keys.batch(namespace, begun.id, "status"), encode(pb.BatchStatus(state=pb.IN_PROGRESS, epoch=1)))

    async def left() -> set[str]:
        return {one.id.removeprefix("batch_") for one in await book.of_namespace(namespace)}

    swept = await asyncio.gather(*(sweeper(store, content).sweep(NOW) for _ in range(2)))
    assert await left() == {"5", "4", "3", "0", "begun"}
    assert 2 <= sum(one.batches for one in swept) <= 4  # two who remove one at once cannot tell whose it was
    await sweeper(store, content, max_ended=2).sweep(NOW)
    assert await left() == {"4", "3", "0", "begun"}
    assert len((await store.get_prefix(keys.batches(namespace))).kvs) == 6


async def test_what_was_kept_for_a_batch_goes_when_it_has_ended(
    store: EtcdClient, content: ContentStore, namespace: str
) -> None:
    order = order_of(namespace=namespace)
    await OrderBook(store, max_unfinished=9).create(order, T0)
    await store.put(keys.batch(namespace, "batch_x", "order"), b"rubbish")
    folders = [content.work_folder(namespace, name) for name in (order.id, "batch_x", "batch_gone")]
    for folder in folders:
        (folder / "checkpoint").mkdir(parents=True)
    assert (await sweeper(store, content).sweep(T0 + 60)).jobs == 1
    assert [folder.exists() for folder in folders] == [True, True, False]
    assert (await sweeper(store, content).sweep(T0 + 2 * DAY_S)).jobs == 1
    assert [folder.exists() for folder in folders] == [False, True, False]
    await store.delete(keys.batch(namespace, "batch_x", "order"))
