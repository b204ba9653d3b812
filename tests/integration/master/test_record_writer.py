"""How a master writes its records: what of another master's it takes over, and what it never overwrites."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from serving._proto import records_pb2 as pb
from serving.control import SystemClock
from serving.local.etcd import EtcdCluster, EtcdOptions, start_etcd
from serving.master.record_writer import RecordWriter
from serving.store import EtcdClient
from serving.store.records import decode, encode
from serving.timeouts import cancel_and_wait
from tests.integration.master.small_mesh import until

Writer = RecordWriter[pb.TrafficRecord]
NEVER_S = 600.0


@pytest.fixture
async def client(etcd: EtcdCluster) -> AsyncIterator[EtcdClient]:
    made = EtcdClient(etcd.config())
    yield made
    await made.close()


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    return f"/{request.node.name}"


def record(version: int, *, generation: int = 1) -> pb.TrafficRecord:
    return pb.TrafficRecord(name="app", generation=generation, version=version)


@asynccontextmanager
async def writing(
    client: EtcdClient, key: str, on_written: Callable[[], None] = lambda: None, **options: Any
) -> AsyncIterator[Writer]:
    known = {"heartbeat_s": NEVER_S, "on_written": on_written} | options
    writer: Writer = RecordWriter(client, key, 1, SystemClock(), pb.TrafficRecord, **known)
    running = asyncio.create_task(writer.run())
    try:
        yield writer
    finally:
        await cancel_and_wait(running)


async def stored(client: EtcdClient, key: str) -> pb.TrafficRecord | None:
    kv = await client.get(key)
    return decode(pb.TrafficRecord, kv.value) if kv is not None else None


async def becomes(client: EtcdClient, key: str, wanted: pb.TrafficRecord | None) -> None:
    async def look() -> bool:
        return await stored(client, key) == wanted

    await until(look)


async def knows(writer: Writer, wanted: pb.TrafficRecord) -> None:
    async def look() -> bool:
        return writer.stored == wanted

    await until(look)


async def test_what_another_master_of_the_generation_wrote_is_taken_over(client: EtcdClient, key: str) -> None:
    """The other one knew more: its record stands until something that follows from it is wanted."""
    told: list[int] = []
    async with writing(client, key, lambda: told.append(writer.stored.version if writer.stored else 0)) as writer:
        writer.submit(record(1))
        await knows(writer, record(1))
        await client.put(key, encode(record(50)))
        writer.submit(record(2))
        await knows(writer, record(50))
        assert await stored(client, key) == record(50)
        assert told == [0, 1, 50]
        writer.submit(record(51))
        await becomes(client, key, record(51))
        await knows(writer, record(51))


async def test_what_was_read_first_is_no_news(client: EtcdClient, key: str) -> None:
    """What its predecessor wrote before a restart is known, and is replaced by what is wanted."""
    await client.put(key, encode(record(7)))
    async with writing(client, key) as writer:
        await knows(writer, record(7))
        writer.submit(record(8))
        await becomes(client, key, record(8))


@pytest.mark.parametrize("begins", ["before", "after"])
async def test_a_higher_generation_is_never_overwritten(client: EtcdClient, key: str, begins: str) -> None:
    newer = record(1, generation=2)
    if begins == "before":
        await client.put(key, encode(newer))
    async with writing(client, key, heartbeat_s=0.05) as writer:
        if begins == "after":
            writer.submit(record(1))
            await becomes(client, key, record(1))
            await client.put(key, encode(newer))
        for version in range(2, 6):
            writer.submit(record(version))
            writer.write_again()
            await asyncio.sleep(0.1)
            assert await stored(client, key) == newer
        await writer.delete()
    assert await stored(client, key) == newer


async def test_a_lower_generation_is_replaced(client: EtcdClient, key: str) -> None:
    await client.put(key, encode(record(9, generation=0)))
    async with writing(client, key) as writer:
        writer.submit(record(1))
        await becomes(client, key, record(1))


async def test_damage_is_replaced(client: EtcdClient, key: str) -> None:
    await client.put(key, b"rubbish")
    async with writing(client, key) as writer:
        writer.submit(record(3))
        await knows(writer, record(3))
        assert await stored(client, key) == record(3)


async def test_what_is_lost_is_seen_by_the_heartbeat_and_written_again(client: EtcdClient, key: str) -> None:
    async with writing(client, key, heartbeat_s=0.05) as writer:
        writer.submit(record(4))
        await becomes(client, key, record(4))
        await client.delete(key)
        await becomes(client, key, record(4))


async def test_after_a_replaced_store_what_is_wanted_is_written_in_any_case(client: EtcdClient, key: str) -> None:
    async with writing(client, key) as writer:
        writer.submit(record(6))
        await knows(writer, record(6))
        await client.put(key, encode(record(5)))  # an older copy of the store
        writer.write_again()
        await becomes(client, key, record(6))


async def test_what_is_deleted_does_not_come_back(client: EtcdClient, key: str) -> None:
    async with writing(client, key, heartbeat_s=0.05) as writer:
        writer.submit(record(1))
        await becomes(client, key, record(1))
        await client.put(key, encode(record(2)))  # so that it is not as it was read
        await writer.delete()
        writer.submit(record(3))
        writer.write_again()
        await asyncio.sleep(0.3)  # some heartbeats
        assert await stored(client, key) is None


async def test_without_etcd_nothing_is_known_and_it_is_read_when_it_is_back(tmp_path: Path, key: str) -> None:
    cluster = start_etcd(tmp_path / "etcd", options=EtcdOptions(die_with_parent=True))
    client = EtcdClient(cluster.config())
    try:
        await client.put(key, encode(record(7)))
        await asyncio.to_thread(cluster.kill)
        writer: Writer = RecordWriter(client, key, 1, SystemClock(), pb.TrafficRecord, heartbeat_s=NEVER_S)
        assert await writer.load() is None
        assert not writer.known
        await asyncio.to_thread(cluster.start)
        running = asyncio.create_task(writer.run())
        writer.submit(record(8))
        await becomes(client, key, record(8))
        await cancel_and_wait(running)
    finally:
        await client.close()
        cluster.kill()
