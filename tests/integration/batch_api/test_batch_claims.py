"""Claims of batches in a real etcd: one runner at a time, fenced by epochs, whatever is lost on the way."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence

import pytest

from serving._proto import batch_pb2 as pb
from serving.batch.orders.batch import Batch
from serving.batch.orders.book import EndedBatch, OrderBook
from serving.batch.orders.claims import Claimed, ClaimLost, claim, read_batch
from serving.batch.orders.view import word_of
from serving.errors import (
    AlreadyExists,
    Conflict,
    FailedPrecondition,
    NotFound,
    ResourceExhausted,
    StoreUnavailable,
)
from serving.local.etcd import EtcdCluster
from serving.store import EtcdClient, keys
from serving.store.lease import Lease
from serving.store.records import decode
from serving.store.types import Compare, Op, OutcomeUnknown, TxnResult
from tests.support.batches import order_of


@pytest.fixture
async def lease(etcd: EtcdCluster) -> AsyncIterator[Lease]:
    made = Lease(etcd.config(), ttl_s=30)
    await made.start()
    yield made
    await made.revoke()


@pytest.fixture
def book(store: EtcdClient) -> OrderBook:
    return OrderBook(store, max_unfinished=10_000)


async def ordered(book: OrderBook, **fields: object) -> Batch:
    made, repeated = await book.create(
        order_of(f"batch_{secrets.token_hex(8)}", created=time.time(), **fields), time.time()
    )  # type: ignore[arg-type]
    assert not repeated
    return made


async def claimed(store: EtcdClient, batch: Batch, lease: Lease, runner: str = "r1") -> Claimed:
    now = await read_batch(store, batch.namespace, batch.id)
    return await claim(store, now, runner=runner, cluster="c", lease=lease.id, now=time.time())


async def test_a_batch_from_its_order_to_its_end(store: EtcdClient, book: OrderBook, lease: Lease) -> None:
    batch = await ordered(book)
    mine = await claimed(store, batch, lease)
    assert mine.epoch == 1
    await mine.write(pb.BatchStatus(state=pb.IN_PROGRESS, total=2, completed=1))
    file = pb.FileRecord(id=f"file-{batch.id}", namespace=batch.namespace, purpose="batch_output", bytes=3)
    await mine.write(pb.BatchStatus(state=pb.COMPLETED, total=2, completed=2, output_file=file.id), [file])
    now = await book.get(batch.namespace, batch.id)
    assert now.claim is None
    assert now.status == mine.status
    assert word_of(now, time.time()) == "completed"
    kv = await store.get(keys.file(file.namespace, file.id))
    assert kv is not None
    assert decode(pb.FileRecord, kv.value) == file
    with pytest.raises(EndedBatch):
        await book.cancel(batch.namespace, batch.id, time.time())
    with pytest.raises(ClaimLost):
        await mine.write(pb.BatchStatus(state=pb.IN_PROGRESS))
    with pytest.raises(FailedPrecondition):
        await claimed(store, batch, lease)


class Deaf(EtcdClient):
    """Whose next transaction is applied, while etcd goes away with the answer."""

    deaf = False

    async def txn(self, compares: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op] = ()) -> TxnResult:
        done = await super().txn(compares, then, otherwise)
        if self.deaf:
            self.deaf = False
            raise OutcomeUnknown("the answer was lost", store_answers=False)
        return done


@pytest.mark.parametrize("state", [pb.IN_PROGRESS, pb.COMPLETED])
async def test_a_write_whose_answer_was_lost_is_written_once(
    etcd: EtcdCluster, book: OrderBook, lease: Lease, state: pb.BatchState
) -> None:
    batch, store = await ordered(book), Deaf(etcd.config())
    try:
        mine = await claimed(store, batch, lease)
        file = pb.FileRecord(id=f"file-{batch.id}", namespace=batch.namespace, purpose="batch_output", bytes=3)
        status = pb.BatchStatus(state=state, total=2, completed=2, output_file=file.id)
        store.deaf = True
        with pytest.raises(StoreUnavailable):
            await mine.write(status, [file])
        first = (await book.get(batch.namespace, batch.id)).status
        await mine.write(status, [file])
        now = await book.get(batch.namespace, batch.id)
        assert now.status == mine.status
        assert (now.status == first, now.claim is None) == (state == pb.COMPLETED, state == pb.COMPLETED)
        if state == pb.COMPLETED:
            status.output_file = "file-another"
            with pytest.raises(ClaimLost):
                await mine.write(status)
    finally:
        await store.close()


async def test_one_of_many_runners_gets_it(store: EtcdClient, book: OrderBook, lease: Lease) -> None:
    batch = await ordered(book)
    seen = await read_batch(store, batch.namespace, batch.id)
    tries = [claim(store, seen, runner=f"r{n}", cluster="c", lease=lease.id, now=time.time()) for n in range(8)]
    done = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(one, Claimed) for one in done) == 1
    assert sum(isinstance(one, Conflict) for one in done) == 7


async def test_whoever_lost_its_claim_writes_nothing(store: EtcdClient, book: OrderBook, lease: Lease) -> None:
    batch = await ordered(book)
    first = await claimed(store, batch, lease)
    await store.delete(batch.key("claim"))  # as the end of its lease does
    with pytest.raises(ClaimLost):
        await first.write(pb.BatchStatus(state=pb.IN_PROGRESS))
    second = await claimed(store, batch, lease, "r2")
    assert second.epoch == 2
    for again in (first.write(pb.BatchStatus(state=pb.COMPLETED)), first.retake(lease.id)):
        with pytest.raises(ClaimLost):
            await again
    await first.release()
    now = await read_batch(store, batch.namespace, batch.id)
    assert (now.claim and now.claim.runner, now.status) == ("r2", second.status)


async def test_a_claim_is_taken_again_where_nobody_had_it(store: EtcdClient, book: OrderBook, lease: Lease) -> None:
    batch = await ordered(book)
    mine = await claimed(store, batch, lease)
    await store.delete(batch.key("claim"))
    for _ in range(2):  # also where the old key is still there
        await mine.retake(lease.id)
        await mine.write(pb.BatchStatus(state=pb.IN_PROGRESS, completed=1))
    assert (await read_batch(store, batch.namespace, batch.id)).status == mine.status


async def test_a_runner_that_was_started_again_takes_its_own_claim(
    store: EtcdClient, book: OrderBook, lease: Lease
) -> None:
    batch = await ordered(book)
    old = await claimed(store, batch, lease)
    with pytest.raises(FailedPrecondition):
        await claimed(store, batch, lease, "r2")
    new = await claimed(store, batch, lease)
    assert new.epoch == 2
    with pytest.raises(ClaimLost):
        await old.write(pb.BatchStatus(state=pb.IN_PROGRESS))


async def test_a_released_batch_is_the_next_one_s(store: EtcdClient, book: OrderBook, lease: Lease) -> None:
    batch = await ordered(book)
    mine = await claimed(store, batch, lease)
    await mine.write(pb.BatchStatus(state=pb.IN_PROGRESS, completed=3))
    await mine.release()
    await mine.release()
    other = await claimed(store, batch, lease, "r2")
    assert (other.epoch, other.status.completed, other.status.state) == (2, 3, pb.IN_PROGRESS)


async def test_a_cancelled_batch_is_begun_by_nobody(store: EtcdClient, book: OrderBook, lease: Lease) -> None:
    batch = await ordered(book)
    seen = await read_batch(store, batch.namespace, batch.id)
    assert await book.cancel(batch.namespace, batch.id, time.time())
    with pytest.raises(Conflict):
        await claim(store, seen, runner="r", cluster="c", lease=lease.id, now=time.time())
    with pytest.raises(FailedPrecondition):
        await claimed(store, batch, lease)
    again = await book.cancel(batch.namespace, batch.id, time.time())
    assert word_of(again, time.time()) == "cancelled"


async def test_a_batch_that_runs_is_cancelled_by_its_runner(store: EtcdClient, book: OrderBook, lease: Lease) -> None:
    batch = await ordered(book)
    mine = await claimed(store, batch, lease)
    told = await book.cancel(batch.namespace, batch.id, time.time())
    assert word_of(told, time.time()) == "cancelling"
    await mine.release()
    mine = await claimed(store, batch, lease, "r2")  # to publish what is done
    assert mine.batch.cancel is not None
    await mine.write(pb.BatchStatus(state=pb.CANCELLED_BATCH))
    assert word_of(await book.get(batch.namespace, batch.id), time.time()) == "cancelled"


async def test_the_limit_holds_for_many_at_once(store: EtcdClient) -> None:
    namespace = f"limited-{secrets.token_hex(4)}"
    books = [OrderBook(store, max_unfinished=3) for _ in range(2)]
    orders = [order_of(f"batch_{n}", created=time.time(), namespace=namespace) for n in range(8)]
    tries = [books[n % 2].create(order, time.time()) for n, order in enumerate(orders)]
    done = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(one, tuple) for one in done) == 3
    assert sum(isinstance(one, ResourceExhausted) for one in done) == 5
    first = (await books[0].of_namespace(namespace))[-1]
    await books[0].cancel(namespace, first.id, time.time())
    made, _ = await books[1].create(order_of("batch_9", created=time.time(), namespace=namespace), time.time())
    assert made.id == "batch_9"


async def test_an_order_is_written_once(book: OrderBook) -> None:
    batch = await ordered(book, namespace="twice")
    again, repeated = await book.create(order_of(batch.id, created=1.0, namespace="twice"), time.time())
    assert (again.order, repeated) == (batch.order, True)
    with pytest.raises(AlreadyExists, match="input_file"):
        await book.create(order_of(batch.id, namespace="twice", input_file="file-2"), time.time())
    with pytest.raises(NotFound):
        await book.get("another", batch.id)
