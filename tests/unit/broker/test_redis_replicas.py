"""A journal in Redis with replicas: what they have before anybody is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serving.broker.redis_log.scripts import journals_key
from serving.control.clock import ManualClock
from serving.errors import Unavailable
from tests.support.redis_server import LoneRedis
from tests.support.redis_shards import RedisShard
from tests.support.waiting import eventually_async


@contextlib.asynccontextmanager
async def replica_of(own: LoneRedis, folder: Path) -> AsyncIterator[LoneRedis]:
    with LoneRedis(folder, replicaof=f"127.0.0.1 {own.port}") as replica:
        await eventually_async(lambda: own.client.info("replication")["connected_slaves"] == 1, what="it is connected")  # type: ignore[index]
        await eventually_async(
            lambda: replica.client.info("replication")["master_link_status"] == "up",  # type: ignore[index]
            what="it follows",
        )
        yield replica


async def test_replicas_have_what_was_taken_before_it_is_served(tmp_path: Path, own: LoneRedis) -> None:
    """One that does not and becomes the primary would give the journal to another broker as well."""
    wanted = own.settings(replicas=1, takeover_s=1.0)
    held = RedisShard(tmp_path / "j1", ManualClock(), redis=wanted)
    async with replica_of(own, tmp_path / "replica") as replica:
        await held.open()
        assert replica.client.hget(held.keys.meta, "taken") == held.log.turn.name.encode()
        await held.close()
        replica.pause()
        with pytest.raises(Unavailable, match="was taken is not on as many disks"):
            await held.again()
        begun = RedisShard(tmp_path / "j2", ManualClock(), redis=wanted)
        with pytest.raises(Unavailable, match="was taken is not on as many disks"):
            await begun.open()
    assert not own.client.exists(held.keys.owner), "it is released"
    assert own.client.exists(held.keys.meta)
    assert own.client.smembers(journals_key(wanted.scope)) == {b"j1"}, "a new one is not left behind by each try"
    assert not own.client.exists(begun.keys.meta)


async def test_replicas_have_what_is_confirmed(tmp_path: Path, own: LoneRedis) -> None:
    async with replica_of(own, tmp_path / "replica") as replica:
        held = RedisShard(tmp_path / "j1", ManualClock(), redis=own.settings(replicas=1, takeover_s=1.0))
        await held.open()
        await held.submit()
        assert replica.client.xlen(held.keys.items) == 1
        replica.kill()
        with pytest.raises(Unavailable, match="not on as many disks"):
            await held.submit()
        assert held.shard.journal.failure is not None
    await held.close()
    assert (await asyncio.to_thread(own.client.xlen, held.keys.items)) == 2, "it is kept, though not confirmed"
