"""How a keeper follows the orders of mode `own`, with a real etcd."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from keeper_harness import Bench, eventually
from own_batches import begin, end, ordered

from keeper.own_orders import OwnOrders
from serving._proto import batch_pb2
from serving.batch.orders.batch import APPLICATION, ORDER, STATUS
from serving.store import keys
from serving.store.records import encode
from serving.timeouts import cancel_and_wait
from tests.support.batches import order_of

pytestmark = pytest.mark.timeout(600)


async def test_many_orders_are_looked_through_in_slices(bench: Bench) -> None:
    now, own = time.time(), set()
    puts = []
    for number in range(1500):
        order = order_of(f"batch_{number:032x}", created=now, mode="own" if number % 3 == 0 else "shared")
        if order.mode == "own":
            own.add((order.namespace, order.id))
        puts.append(bench.client.put(keys.batch(order.namespace, order.id, ORDER), encode(order)))
    for start in range(0, len(puts), 50):
        await asyncio.gather(*puts[start : start + 50])
    ended_ones = sorted(own)[:100]
    status = encode(batch_pb2.BatchStatus(state=batch_pb2.COMPLETED))
    for name in ended_ones:
        await bench.client.put(keys.batch(*name, STATUS), status)
    whole = asyncio.Event()
    partly: list[int] = []

    def heard() -> None:
        if orders.fresh:
            whole.set()
        else:
            partly.append(len(orders.unfinished))

    orders = OwnOrders(bench.client, heard)
    following = asyncio.create_task(orders.run())
    await asyncio.wait_for(whole.wait(), 90)
    assert set(orders.unfinished) == own - set(ended_ones)
    assert partly  # others had a turn before it was whole
    assert partly[0] < len(orders.unfinished)
    assert not orders.carried()
    await cancel_and_wait(following)


async def test_counts_of_running_batches_wake_nobody(bench: Bench) -> None:
    woken: list[float] = []
    was_fresh = [False]

    def heard() -> None:
        if orders.fresh == was_fresh[-1]:  # else it tells of the store's coming and going
            woken.append(time.monotonic())
        was_fresh.append(orders.fresh)

    orders = OwnOrders(bench.client, heard)
    shared, own = await ordered(bench.client, mode="shared"), await ordered(bench.client)
    claims = {batch.id: (await begin(bench, batch))[0] for batch in (shared, own)}
    following = asyncio.create_task(orders.run())

    async def known(look: Callable[[], bool]) -> None:
        async def looked() -> bool:
            return look()

        await eventually(looked)

    await known(lambda: orders.fresh)
    assert set(orders.unfinished) == {own.name}
    before = len(woken)
    status = batch_pb2.BatchStatus()
    for count in range(1, 51):
        for claimed in claims.values():
            status.CopyFrom(claimed.status)
            status.state, status.completed = batch_pb2.VALIDATING, count
            await claimed.write(status)
    await known(lambda: orders.unfinished[own.name].status.completed == 50)  # type: ignore[union-attr]
    assert len(woken) == before
    await end(claims[own.id])
    await known(lambda: not orders.unfinished)
    assert len(woken) <= before + 1
    damaged = await ordered(bench.client)
    await known(lambda: damaged.name in orders.unfinished)
    await bench.client.put(damaged.key(STATUS), b"rubbish")
    await known(lambda: orders.unreadable == {damaged.name})
    await bench.client.delete(damaged.key(STATUS))
    await known(lambda: damaged.name in orders.unfinished and not orders.unreadable)
    for part in (ORDER, APPLICATION):
        await bench.client.delete(damaged.key(part))
    await known(lambda: not orders.unfinished)
    assert len(woken) > before
    await cancel_and_wait(following)
