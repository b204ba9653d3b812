"""What watches and caches say when etcd goes away, forgets, comes back empty, older, or as another one."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from contextlib import aclosing

import pytest
from store_support import LONG_S, eventually, following

from serving.errors import PermissionDenied, StoreUnavailable
from serving.local.etcd import EtcdCluster, EtcdOptions
from serving.store import CacheUpdate, Disconnected, EtcdClient, Op, PrefixCache, Resync
from serving.store import watch as watch_module

Own = Callable[..., EtcdCluster]


async def test_a_watch_goes_on_after_a_restart_and_misses_nothing(own_etcd: Own) -> None:
    etcd = await asyncio.to_thread(own_etcd)
    client = EtcdClient(etcd.config())
    await client.put("/mesh/a", b"1")
    async with following(client, "/mesh/") as follower:
        await asyncio.to_thread(etcd.kill)
        await eventually(lambda: follower.stale, "the view to be stale")
        assert isinstance(follower.events[-1], Disconnected)
        assert isinstance(follower.events[-1].error, StoreUnavailable)
        assert follower.values() == {"a": b"1"}
        await asyncio.to_thread(etcd.start)
        other = EtcdClient(etcd.config())
        await other.txn([], [Op.put("/mesh/b", b"2"), Op.delete("/mesh/a")])
        await eventually(lambda: follower.values() == {"b": b"2"}, "what changed meanwhile")
        assert follower.count(Resync) == 1
        assert not follower.stale
        await other.close()
    await client.close()


async def test_a_watch_lists_again_after_a_compaction(own_etcd: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    etcd = await asyncio.to_thread(own_etcd)
    client, other = EtcdClient(etcd.config()), EtcdClient(etcd.config())
    await client.put("/mesh/a", b"1")
    gate = asyncio.Event()
    connects = 0
    real = watch_module.open_stream

    def gated(*arguments: object) -> object:
        """Holds the second connection back until the history that it needs is gone."""
        nonlocal connects
        connects += 1
        return real(*arguments)  # type: ignore[arg-type]

    async def has_our_past(self: watch_module.Watch) -> bool:
        await gate.wait()
        return await real_past(self)

    real_past = watch_module.Watch._has_our_past
    monkeypatch.setattr(watch_module, "open_stream", gated)
    monkeypatch.setattr(watch_module.Watch, "_has_our_past", has_our_past)
    async with following(client, "/mesh/") as follower:
        await eventually(lambda: connects == 1, "the first stream")
        await asyncio.to_thread(etcd.restart)
        for number in range(20):
            await other.put("/mesh/b", b"%d" % number)
        await other.delete("/mesh/a")
        await other.compact(await other.put("/mesh/c", b"new"))
        gate.set()
        await eventually(lambda: follower.values() == {"b": b"19", "c": b"new"}, "the new picture")
        assert follower.count(Resync) == 2
        assert follower.replacements == 0
        await other.put("/mesh/d", b"")
        await eventually(lambda: "d" in follower.values(), "the watch goes on")
    await client.close()
    await other.close()


async def test_compaction_during_a_watch_is_not_noticed(own_etcd: Own) -> None:
    etcd = await asyncio.to_thread(own_etcd)
    client = EtcdClient(etcd.config())
    async with following(client, "/mesh/") as follower:
        for number in range(100):
            revision = await client.put("/mesh/a", b"%d" % number)
            if number % 10 == 0:
                await client.compact(revision)
                await client.compact(revision)  # again: no error
        await eventually(lambda: follower.values() == {"a": b"99"}, "the last write")
        assert follower.count(Resync) == 1
    await client.close()


@pytest.mark.parametrize(
    ("token", "writes"),
    [
        pytest.param("", 0, id="another cluster id, a lower revision"),
        pytest.param("", 30, id="another cluster id, beyond the revision", marks=pytest.mark.long),
        pytest.param("always the same", 0, id="the same cluster id, a lower revision", marks=pytest.mark.long),
        pytest.param("always the same", 30, id="the same cluster id, beyond the revision"),
    ],
)
async def test_an_empty_store_is_never_an_order_to_delete(own_etcd: Own, token: str, writes: int) -> None:
    etcd = await asyncio.to_thread(own_etcd, EtcdOptions(cluster_token=token, die_with_parent=True))
    client = EtcdClient(etcd.config())
    for name in "abc":
        await client.put(f"/mesh/{name}", b"1")
    cache = PrefixCache(client, "/mesh/", grace_s=600)
    updates: list[CacheUpdate] = []
    cache.listen(updates.append)
    await cache.start(wait_s=LONG_S)
    async with following(client, "/mesh/") as follower:
        await asyncio.to_thread(etcd.kill)
        await eventually(lambda: follower.stale and cache.stale, "the view to be stale")
        etcd.wipe()
        await asyncio.to_thread(etcd.start)
        other = EtcdClient(etcd.config())
        for number in range(writes):  # somebody is quicker than the watch
            await other.put("/mesh/x", b"%d" % number)
        await eventually(lambda: follower.replacements == 1 and not cache.stale, "that the store was replaced")
        assert {"/mesh/a", "/mesh/b", "/mesh/c"} <= set(cache.entries())
        assert cache.carried() == {"/mesh/a", "/mesh/b", "/mesh/c"}
        assert any(update.replaced for update in updates)
        await client.put("/mesh/a", b"2")  # its owner writes it back
        await eventually(lambda: not cache.is_carried("/mesh/a"), "the owner's write")
        assert cache.drop("/mesh/b") is True  # somebody knows that it is dead
        await eventually(lambda: follower.values().get("a") == b"2", "the watch goes on")
        assert {key: kv.value for key, kv in cache.entries().items() if key != "/mesh/x"} == {
            "/mesh/a": b"2",
            "/mesh/c": b"1",
        }
        assert follower.replacements == 1
        await other.close()
    await cache.close()
    await client.close()


async def test_an_older_store_is_told_from_one_that_went_on(own_etcd: Own) -> None:
    etcd = await asyncio.to_thread(own_etcd, EtcdOptions(die_with_parent=True))
    member = etcd.members[0]
    client = EtcdClient(etcd.config())
    await client.put("/mesh/old", b"1")
    await asyncio.to_thread(etcd.stop)
    backup = member.directory / "backup"
    shutil.copytree(member.data_dir, backup)
    await asyncio.to_thread(etcd.start)
    async with following(client, "/mesh/") as follower:
        await client.put("/mesh/old", b"2")
        await client.put("/mesh/new", b"1")
        await eventually(lambda: follower.values() == {"old": b"2", "new": b"1"}, "both writes")
        await asyncio.to_thread(etcd.restart)  # harmless
        await client.put("/mesh/newer", b"1")
        await eventually(lambda: "newer" in follower.values(), "the write after the restart")
        assert follower.replacements == 0
        await asyncio.to_thread(etcd.kill)
        etcd.wipe()
        shutil.copytree(backup, member.data_dir)
        await asyncio.to_thread(etcd.start)
        await eventually(lambda: follower.replacements == 1, "that the store is older")
        assert follower.values() == {"old": b"1"}
        await client.put("/mesh/after", b"1")
        await eventually(lambda: "after" in follower.values(), "the watch goes on")
    await client.close()


async def test_a_cache_waits_survives_and_tells(own_etcd: Own) -> None:
    etcd = await asyncio.to_thread(own_etcd)
    await asyncio.to_thread(etcd.stop)
    client = EtcdClient(etcd.config())
    cache = PrefixCache(client, "/mesh/")
    with pytest.raises(StoreUnavailable, match=r"/mesh/ could not be read within 0\.1 s"):
        await cache.start(wait_s=0.1)
    assert cache.stale
    assert not cache.synced
    await asyncio.to_thread(etcd.start)
    await cache.wait_synced(LONG_S)
    assert not cache.stale
    assert cache.stale_for_s == 0.0
    async with aclosing(cache.subscribe()) as updates:
        assert (await anext(updates)).keys == frozenset()
        await client.put("/mesh/a", b"1")
        update = await asyncio.wait_for(anext(updates), LONG_S)
        while not update.keys:  # on a slow machine the cache may say first that etcd is, and is not, away
            update = await asyncio.wait_for(anext(updates), LONG_S)
        assert update.keys == {"/mesh/a"}
        await eventually(lambda: not cache.stale, "a fresh cache")
        await asyncio.to_thread(etcd.kill)
        while not update.stale:
            update = await asyncio.wait_for(anext(updates), LONG_S)
        assert update == CacheUpdate(frozenset(), stale=True, replaced=False)
        assert cache.stale_for_s > 0
        assert cache.error is not None
        assert list(cache.entries()) == ["/mesh/a"]
        await asyncio.to_thread(etcd.start)
        while update.stale:
            update = await asyncio.wait_for(anext(updates), LONG_S)
    await cache.close()
    assert list(cache.entries()) == ["/mesh/a"]
    await client.close()


async def test_a_cache_that_may_not_read_says_so(own_etcd: Own, tmp_path_factory: pytest.TempPathFactory) -> None:
    etcd = await asyncio.to_thread(own_etcd)
    await asyncio.to_thread(etcd.enable_auth, "root-password", {"mesh": "right"})
    secret = tmp_path_factory.mktemp("secret") / "password"
    secret.write_text("right")
    client = EtcdClient(etcd.config(user="mesh", password_file=str(secret)))
    cache = PrefixCache(client, "/other/")
    with pytest.raises(PermissionDenied):
        await cache.start(wait_s=LONG_S)
    with pytest.raises(PermissionDenied):
        async for _ in cache.subscribe():
            pass
    await cache.close()
    await client.close()
