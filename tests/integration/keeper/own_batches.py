"""Batches of mode `own`, and what their runners write."""

from __future__ import annotations

import secrets
import time

from keeper_harness import Bench

from serving._proto import batch_pb2
from serving.batch.orders.batch import Batch
from serving.batch.orders.book import OrderBook
from serving.batch.orders.claims import Claimed, claim, read_batch
from serving.store import EtcdClient, Lease
from tests.support.batches import order_of


async def ordered(client: EtcdClient, *, mode: str = "own", window_s: int = 3600, batch_id: str = "") -> Batch:
    now = time.time()
    order = order_of(batch_id or f"batch_{secrets.token_hex(16)}", created=now, window_s=window_s, mode=mode)
    return (await OrderBook(client, max_unfinished=999).create(order, now))[0]


async def begin(bench: Bench, batch: Batch, name: str = "runner-1") -> tuple[Claimed, Lease]:
    """As the runner of its application does it."""
    lease = Lease(bench.etcd, ttl_s=60)
    await lease.start()
    now = await read_batch(bench.client, *batch.name)
    held = await claim(bench.client, now, runner=name, cluster="east", lease=lease.id, now=time.time())
    return held, lease


async def end(claimed: Claimed) -> None:
    status = batch_pb2.BatchStatus()
    status.CopyFrom(claimed.status)
    status.state = batch_pb2.COMPLETED
    await claimed.write(status)
