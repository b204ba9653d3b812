"""What a keeper concludes from missing clusters after it did not run itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from keeper.config import KeeperConfig
from keeper.events import Events
from keeper.mirror import Mirror
from keeper.picture import Touched
from keeper.placement import Liveness
from serving._proto import records_pb2 as pb
from serving.config import EtcdConfig
from serving.control import ManualClock
from serving.store import EtcdClient

CONFIG = KeeperConfig(id="k", etcd=EtcdConfig(endpoints=("127.0.0.1:1",)))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def mirror(clock: ManualClock) -> AsyncIterator[Mirror]:
    """Whose clock runs, with one cluster."""
    client = EtcdClient(CONFIG.etcd)
    made = Mirror(client, CONFIG, clock, Events(clock.now))
    made.book.seen(pb.ClusterRecord(name="east"), clock.now())
    running = asyncio.create_task(made.run_clock())
    await turns()
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await client.close()


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def waited(mirror: Mirror, clock: ManualClock, seconds: float) -> None:
    """The clock's task wakes up after so long."""
    clock.advance(seconds)
    mirror._tell(Touched())
    await turns()


async def test_a_missing_cluster_is_gone_after_the_grace(mirror: Mirror, clock: ManualClock) -> None:
    await waited(mirror, clock, 1.0)
    mirror.book.missing("east", clock.now())
    clock.advance(CONFIG.cluster_grace_s)
    assert mirror.book.liveness("east", clock.now()) is Liveness.GONE


async def test_not_so_soon_where_the_keeper_did_not_run_itself(mirror: Mirror, clock: ManualClock) -> None:
    await waited(mirror, clock, 12.0)
    assert mirror._events.counts["stood-still"] == 1
    mirror.book.missing("east", clock.now())
    clock.advance(CONFIG.reconnect_grace_s - 1)
    assert mirror.book.liveness("east", clock.now()) is Liveness.SILENT
    clock.advance(1)
    assert mirror.book.liveness("east", clock.now()) is Liveness.GONE
