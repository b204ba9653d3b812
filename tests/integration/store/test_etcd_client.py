"""The client against a healthy etcd: reading, guarded writing, watching, limits."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from store_support import LONG_S, Follower, eventually, following

from serving.config import EtcdConfig
from serving.errors import Conflict, FailedPrecondition, InvalidArgument, NotFound, StoreUnavailable
from serving.local.etcd import EtcdCluster
from serving.local.ports import free_ports
from serving.store import Changes, Compare, Disconnected, EtcdClient, Lease, Op, Resync
from serving.store.client import PAGE_KEYS


async def test_put_get_delete(client: EtcdClient, prefix: str) -> None:
    key = prefix + "a"
    assert await client.get(key) is None
    first = await client.put(key, b"1")
    second = await client.put(key, b"2")
    assert second == first + 1
    kv = await client.get(key)
    assert kv is not None
    assert (kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version) == (key, b"2", first, second, 2)
    assert await client.delete(key) is True
    assert await client.delete(key) is False
    assert await client.get(key) is None


async def test_a_fresh_client_overwrites_what_it_has_not_seen(shared_etcd: EtcdCluster, prefix: str) -> None:
    writer, other = EtcdClient(shared_etcd.config()), EtcdClient(shared_etcd.config())
    for number in range(5):
        await writer.put(prefix + "a", b"%d" % number)
    await other.put(prefix + "a", b"other")
    await writer.put(prefix + "a", b"writer")
    kv = await other.get(prefix + "a")
    assert kv is not None
    assert (kv.value, kv.version) == (b"writer", 7)
    await writer.close()
    await other.close()


async def test_compare_and_set(client: EtcdClient, prefix: str) -> None:
    key = prefix + "a"
    revision = await client.put_if(key, b"1", mod_revision=0)
    with pytest.raises(Conflict, match=f"revision {revision}, not absent"):
        await client.put_if(key, b"2", mod_revision=0)
    newer = await client.put_if(key, b"2", mod_revision=revision)
    with pytest.raises(Conflict):
        await client.put_if(key, b"3", mod_revision=revision)
    with pytest.raises(Conflict):
        await client.delete_if(key, mod_revision=revision)
    await client.delete_if(key, mod_revision=newer)
    with pytest.raises(Conflict, match="is absent"):
        await client.delete_if(key, mod_revision=newer)


async def test_many_writers_count_without_losing_one(shared_etcd: EtcdCluster, prefix: str) -> None:
    key = prefix + "counter"

    async def count(times: int) -> None:
        client = EtcdClient(shared_etcd.config())
        done = 0
        while done < times:
            kv = await client.get(key)
            try:
                value = int(kv.value) + 1 if kv else 1
                await client.put_if(key, b"%d" % value, mod_revision=kv.mod_revision if kv else 0)
                done += 1
            except Conflict:
                continue
        await client.close()

    await asyncio.gather(*(count(20) for _ in range(5)))
    client = EtcdClient(shared_etcd.config())
    kv = await client.get(key)
    assert kv is not None
    assert kv.value == b"100"
    await client.close()


async def test_transactions(client: EtcdClient, prefix: str) -> None:
    a, b = prefix + "a", prefix + "b"
    await client.put(a, b"1")
    result = await client.txn(
        [Compare.exists(a), Compare.absent(b), Compare.value(a, b"1")],
        [Op.put(b, b"2"), Op.get(a), Op.get_prefix(prefix), Op.delete(prefix + "none")],
        [Op.get(a)],
    )
    assert result.succeeded
    assert result.results[1].kv is not None
    assert [kv.key for kv in result.results[2].kvs] == [a, b]
    assert result.results[3].deleted == 0
    again = await client.txn([Compare.absent(b)], [Op.put(b, b"3")], [Op.get(b), Op.get(prefix + "none")])
    assert not again.succeeded
    assert again.results[0].kv is not None
    assert again.results[0].kv.value == b"2"
    assert again.results[1].kv is None
    gone = await client.txn([Compare.prefix_mod_before(prefix, result.revision + 1)], [Op.delete_prefix(prefix)])
    assert gone.results[0].deleted == 2


async def test_delete_prefix_spares_the_neighbours(client: EtcdClient, prefix: str) -> None:
    for name in ("x/1", "x/2", "xy", "w"):
        await client.put(prefix + name, b"")
    assert await client.delete_prefix(prefix + "x/") == 2
    assert await client.delete_prefix(prefix + "x/") == 0
    assert [kv.key for kv in (await client.get_prefix(prefix)).kvs] == [prefix + "w", prefix + "xy"]


async def test_a_big_prefix_is_one_picture(client: EtcdClient, prefix: str) -> None:
    count = 2 * PAGE_KEYS + 7
    for start in range(0, count, 100):
        keys = [f"{prefix}{number:05d}" for number in range(start, min(start + 100, count))]
        await client.txn([], [Op.put(key, b"0") for key in keys])
    listing = asyncio.create_task(client.get_prefix(prefix))
    writing = asyncio.create_task(client.put(f"{prefix}{count - 1:05d}", b"1"))
    snapshot = await listing
    written = await writing
    assert [kv.key for kv in snapshot.kvs] == [f"{prefix}{number:05d}" for number in range(count)]
    assert all(kv.mod_revision <= snapshot.revision for kv in snapshot.kvs)
    assert (snapshot.kvs[-1].value == b"1") == (snapshot.revision >= written)


async def test_big_values_are_listed_although_a_page_of_them_is_too_big_for_a_message(
    client: EtcdClient, prefix: str
) -> None:
    for number in range(40):
        await client.put(f"{prefix}{number:02d}", b"x" * 1_000_000)
    assert len((await client.get_prefix(prefix)).kvs) == 40
    await client.delete_prefix(prefix)


async def test_what_etcd_would_refuse_is_named(client: EtcdClient, prefix: str) -> None:
    with pytest.raises(InvalidArgument, match=r"bytes are more than etcd takes in one request \(1572864\)"):
        await client.put(prefix + "a", b"x" * 1_600_000)
    with pytest.raises(InvalidArgument, match="too many operations"):
        await client.txn([], [Op.put(f"{prefix}{number}", b"") for number in range(200)])
    with pytest.raises(InvalidArgument, match="duplicate key"):
        await client.txn([], [Op.put(prefix + "a", b""), Op.put(prefix + "a", b"")])
    with pytest.raises(InvalidArgument, match="cannot be empty"):
        await client.get("")
    with pytest.raises(NotFound, match="lease not found"):
        await client.put(prefix + "a", b"", lease=12345)
    assert await client.get(prefix + "a") is None


async def test_keys_are_bytes_for_etcd(client: EtcdClient, prefix: str) -> None:
    for key in (prefix + "é", prefix + "a b\n", prefix + "\udcff"):
        await client.put(key, bytes(range(256)))
        kv = await client.get(key)
        assert kv is not None
        assert (kv.key, kv.value) == (key, bytes(range(256)))


async def test_a_watch_tells_everything_once(client: EtcdClient, prefix: str) -> None:
    await client.put(prefix + "old", b"1")
    async with following(client, prefix) as follower:
        assert follower.values() == {"old": b"1"}
        await client.txn([], [Op.put(prefix + "a", b"1"), Op.put(prefix + "b", b"1"), Op.delete(prefix + "old")])
        for number in range(50):
            await client.put(prefix + "a", b"%d" % number)
        await client.put(prefix + "end", b"")
        await eventually(lambda: "end" in follower.values(), "the last change")
        assert follower.values() == {"a": b"49", "b": b"1", "end": b""}
        assert follower.count(Resync) == 1
        together = [event for event in follower.events if isinstance(event, Changes) and event.deletes]
        assert [kv.key for kv in together[0].puts] == [prefix + "a", prefix + "b"]


async def test_a_change_that_is_bigger_than_a_message_comes_whole(client: EtcdClient, prefix: str) -> None:
    async with following(client, prefix) as follower:
        lease = Lease(client.config, ttl_s=60)
        await lease.start()
        for number in range(8):
            await client.put(f"{prefix}{number}", b"x" * 1_000_000, lease=lease.id)
        await eventually(lambda: len(follower.view) == 8, "all big values")
        await lease.revoke()  # eight deletions at one revision
        await eventually(lambda: not follower.view, "all deletions")
        assert follower.count(Resync) == 1


async def test_two_watches_and_calls_share_a_client(client: EtcdClient, prefix: str) -> None:
    async with following(client, prefix + "a/") as first, following(client, prefix + "b/") as second:
        await asyncio.gather(*(client.put(f"{prefix}{'ab'[n % 2]}/{n}", b"") for n in range(40)))
        await eventually(lambda: len(first.view) == len(second.view) == 20, "both views")


async def test_a_watch_that_is_left_leaves_nothing_behind(client: EtcdClient, prefix: str) -> None:
    before = len(asyncio.all_tasks())
    for _ in range(5):
        async with aclosing(client.watch(prefix)) as events:
            async for event in events:
                assert isinstance(event, Resync)
                break
    await eventually(lambda: len(asyncio.all_tasks()) == before, "no task left")


@pytest.mark.parametrize("turns", range(12))
async def test_a_watch_can_be_left_while_it_opens_its_stream(client: EtcdClient, prefix: str, turns: int) -> None:
    """After so many turns of the loop: a stream that is cancelled before it went out never says so to its writer."""
    follower = Follower(client, prefix)
    task = asyncio.create_task(follower.run())
    await follower.began.wait()
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    _, running = await asyncio.wait({task}, timeout=LONG_S)
    assert not running


async def test_endpoints_that_are_dead_are_passed_over(shared_etcd: EtcdCluster, prefix: str) -> None:
    dead = tuple(f"127.0.0.1:{port}" for port in free_ports(3))
    client = EtcdClient(EtcdConfig(endpoints=(*dead, *shared_etcd.endpoints)))
    await client.put(prefix + "a", b"1")
    assert await client.get(prefix + "a") is not None
    await client.close()


async def test_names_and_addresses_may_stand_side_by_side(shared_etcd: EtcdCluster, prefix: str) -> None:
    port = shared_etcd.endpoints[0].rpartition(":")[2]
    for endpoints in ((f"localhost:{port}",), (f"[::1]:{free_ports(1)[0]}", f"localhost:{port}")):
        client = EtcdClient(EtcdConfig(endpoints=endpoints))
        await client.put(prefix + "a", b"1")
        await client.close()


async def test_nobody_there_is_said_within_the_limits() -> None:
    endpoint = f"127.0.0.1:{free_ports(1)[0]}"
    client = EtcdClient(EtcdConfig(endpoints=(endpoint,), request_timeout_s=0.2, max_attempts=2))
    with pytest.raises(StoreUnavailable, match=rf"{endpoint}.*get /mesh/a"):
        await client.get("/mesh/a")
    async with aclosing(client.watch("/mesh/")) as events:
        first = await anext(events)
        assert isinstance(first, Disconnected)
        assert endpoint in first.error.message or "does not answer" in first.error.message
    await client.close()
    with pytest.raises(FailedPrecondition, match="closed"):
        await client.get("/mesh/a")


async def test_a_client_must_name_endpoints() -> None:
    with pytest.raises(InvalidArgument, match="names no endpoint"):
        EtcdClient(EtcdConfig(endpoints=()))
    with pytest.raises(InvalidArgument, match="no etcd endpoint"):
        EtcdClient(EtcdConfig(endpoints=("http://127.0.0.1:2379",)))
