"""Three members, one of which dies or hangs at a time, under a writer and a watcher: nothing lost, nothing doubled."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import pytest
from store_support import LONG_S, Follower, eventually, following

from serving.config import EtcdConfig
from serving.errors import Conflict, StoreUnavailable
from serving.local.etcd import EtcdCluster
from serving.store import EtcdClient, Lease, Resync


@dataclass
class Load:
    """Counts a key up, one acknowledged step at a time, and creates one key per step."""

    client: EtcdClient
    steps: int = 0
    created: set[str] = field(default_factory=set)
    troubles: int = 0
    stop: bool = False

    async def run(self) -> None:
        while not self.stop:
            number = self.steps + 1
            await self._insist(lambda number=number: self.client.put("/mesh/counter", b"%d" % number))
            await self._insist(lambda number=number: self._create(f"/mesh/step/{number:06d}"))
            self.steps = number

    async def _create(self, key: str) -> None:
        try:
            await self.client.put_if(key, b"created", mod_revision=0)
        except Conflict:
            if not self.troubles:  # else the attempt before got through after all
                raise
        self.created.add(key)

    async def _insist(self, call: Callable[[], Awaitable[object]]) -> None:
        while True:
            try:
                await call()
            except StoreUnavailable:  # also an outcome that stayed unknown
                self.troubles += 1
                continue
            return


def check(follower: Follower, load: Load) -> None:
    """Every step was told, once, in order; nothing else was."""
    counts = [int(kv.value) for kv in follower.history if kv.key == "/mesh/counter"]
    assert counts == sorted(counts), "the counter was seen going back"
    versions = [kv.version for kv in follower.history if kv.key == "/mesh/counter"]
    assert versions == sorted(set(versions))
    steps = [kv for kv in follower.history if kv.key.startswith("/mesh/step/")]
    assert all(kv.version == 1 for kv in steps), "a step was written twice"
    told = [kv.key for kv in steps]
    if follower.count(Resync) == 1:
        assert told == [f"/mesh/step/{number + 1:06d}" for number in range(len(load.created))]
    assert set(told) == load.created


async def under_load(cluster: EtcdCluster, disturb: Callable[[], Awaitable[None]]) -> tuple[Follower, Load]:
    writer, reader = EtcdClient(cluster.config()), EtcdClient(cluster.config())
    load = Load(writer)
    async with following(reader, "/mesh/") as follower:
        writing = asyncio.create_task(load.run())
        await eventually(lambda: load.steps > 20 or writing.done(), "some writes before")
        await disturb()
        before = load.steps
        await eventually(lambda: load.steps > before + 20 or writing.done(), "some writes after")
        load.stop = True
        await writing
        await eventually(lambda: len(follower.view) == len(load.created) + 1, "the whole view")
        check(follower, load)
        assert follower.replacements == 0
        assert follower.count(Resync) == 1
    await writer.close()
    await reader.close()
    return follower, load


async def leader(cluster: EtcdCluster) -> int:
    """Position of the member that leads: the one whose death hurts most. Waits while they elect one."""
    deadline = asyncio.get_running_loop().time() + LONG_S
    while asyncio.get_running_loop().time() < deadline:
        for position, member in enumerate(cluster.members):
            single = EtcdClient(EtcdConfig(endpoints=(member.endpoint,)))
            status = await single.status()
            await single.close()
            if status.member_id == status.leader_id:
                return position
    raise AssertionError("no member leads")


@pytest.mark.parametrize("which", ["leader", "follower"])
async def test_a_member_is_killed(three_members: EtcdCluster, which: str) -> None:
    client = EtcdClient(three_members.config())
    position = await leader(three_members)
    victim = three_members.members[position if which == "leader" else (position + 1) % 3]

    async def disturb() -> None:
        await asyncio.to_thread(victim.kill)

    lease = Lease(three_members.config(), ttl_s=60)
    await lease.start()
    _, load = await under_load(three_members, disturb)
    assert load.steps > 40
    assert lease.held()
    await asyncio.to_thread(victim.start)
    await lease.revoke()
    await client.close()


@pytest.mark.parametrize("which", ["leader", "follower"])
async def test_a_member_hangs_and_wakes_up(three_members: EtcdCluster, which: str) -> None:
    client = EtcdClient(three_members.config())
    position = await leader(three_members)
    victim = three_members.members[position if which == "leader" else (position + 1) % 3]
    writes = EtcdClient(three_members.config())

    async def disturb() -> None:
        victim.pause()
        try:
            for number in range(10):
                await writes.put("/other/a", b"%d" % number)
        finally:
            victim.resume()
        for number in range(10):  # what the sleeper still had in its hands must not undo anything
            await writes.put("/other/a", b"%d" % (100 + number))

    lease = Lease(three_members.config(), ttl_s=60)
    await lease.start()
    await under_load(three_members, disturb)
    kv = await client.get("/other/a")
    assert kv is not None
    assert kv.value == b"109"
    assert lease.held()
    await lease.revoke()
    await writes.close()
    await client.close()


async def test_without_a_majority_nothing_is_written_and_the_view_is_stale(three_members: EtcdCluster) -> None:
    client = EtcdClient(replace(three_members.config(), request_timeout_s=0.5, max_attempts=3))
    patient = EtcdClient(three_members.config())
    await patient.put("/mesh/a", b"1")
    async with following(client, "/mesh/") as follower:
        for member in three_members.members[1:]:
            await asyncio.to_thread(member.kill)
        with pytest.raises(StoreUnavailable):
            await client.put("/mesh/a", b"2")
        await eventually(lambda: follower.events[-1].__class__.__name__ == "Disconnected", "the view to be stale")
        assert follower.values() == {"a": b"1"}
        await asyncio.to_thread(three_members.start)
        await patient.put("/mesh/b", b"3")
        await patient.close()
        await eventually(lambda: follower.values().get("b") == b"3", "the watch goes on")
        assert follower.replacements == 0
    await client.close()


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_twenty_disturbances(three_members: EtcdCluster) -> None:
    choose = random.Random(7)

    async def disturb() -> None:
        for _ in range(20):
            victim = choose.choice(three_members.members)
            if choose.random() < 0.5:
                await asyncio.to_thread(victim.kill)
                await asyncio.sleep(choose.uniform(0, 3))
                await asyncio.to_thread(victim.start)
            else:
                victim.pause()
                await asyncio.sleep(choose.uniform(0, 5))
                victim.resume()
                await asyncio.to_thread(victim.wait_ready)

    await asyncio.wait_for(under_load(three_members, disturb), 6 * LONG_S)
