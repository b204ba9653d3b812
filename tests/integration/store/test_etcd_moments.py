"""Everything of the store that can be left or closed, left and closed at every moment."""

from __future__ import annotations

import asyncio
import threading

from store_support import LONG_S, Follower

from serving.errors import FailedPrecondition, MeshError
from serving.local.etcd import EtcdCluster
from serving.store import Election, EtcdClient, Lease, PrefixCache, Resync
from tests.support.moments import Moment, at_each, cut, ended, turn_of

TTL_S = 5


async def test_a_watch_can_be_left_at_any_moment(client: EtcdClient, prefix: str) -> None:
    async def scenario(moment: Moment) -> None:
        await cut(Follower(client, prefix).run(), moment)

    await at_each(scenario)


async def test_a_watch_can_be_left_at_any_moment_of_opening_its_stream(client: EtcdClient, prefix: str) -> None:
    async def scenario(moment: Moment) -> None:
        follower = Follower(client, prefix)
        task = asyncio.create_task(follower.run())
        await turn_of(lambda: follower.count(Resync) > 0)
        await moment.come(task)
        task.cancel()
        await ended(task, moment)

    await at_each(scenario)


async def test_calls_end_when_their_client_is_closed_at_any_moment(shared_etcd: EtcdCluster, prefix: str) -> None:
    async def scenario(moment: Moment) -> None:
        client = EtcdClient(shared_etcd.config())
        tasks = [
            asyncio.create_task(client.get(f"{prefix}a")),
            asyncio.create_task(client.put(f"{prefix}a", b"1")),
            asyncio.create_task(client.get_prefix(prefix)),
            asyncio.create_task(Follower(client, prefix).run()),
        ]
        await moment.come(tasks[-1])
        await client.close()
        for task in tasks:
            await ended(task, moment)
            assert not task.cancelled()
            assert isinstance(task.exception(), MeshError | None), repr(task.exception())

    await at_each(scenario)


async def test_taking_a_lease_can_be_left_at_any_moment(shared_etcd: EtcdCluster) -> None:
    async def scenario(moment: Moment) -> None:
        lease = Lease(shared_etcd.config(), ttl_s=TTL_S)
        task = await cut(lease.start(), moment)
        assert task.cancelled() or lease.held()
        await lease.revoke()

    await at_each(scenario)


async def test_a_lease_can_be_given_back_at_any_moment(shared_etcd: EtcdCluster) -> None:
    async def scenario(moment: Moment) -> None:
        lease = Lease(shared_etcd.config(), ttl_s=TTL_S)
        task = asyncio.create_task(lease.start())
        await moment.come(task)
        await ended(asyncio.create_task(lease.revoke()), moment)
        await ended(task, moment)
        await lease.revoke()

    await at_each(scenario)


async def test_a_campaign_can_be_left_at_any_moment(client: EtcdClient, shared_etcd: EtcdCluster, prefix: str) -> None:
    async def scenario(moment: Moment) -> None:
        election = Election(client, shared_etcd.config(), prefix, b"me", ttl_s=TTL_S)
        await cut(election.campaign(), moment)
        await election.resign()

    await at_each(scenario)


async def test_a_campaign_can_be_left_at_any_moment_while_another_leads(
    client: EtcdClient, shared_etcd: EtcdCluster, prefix: str
) -> None:
    leader = Election(client, shared_etcd.config(), prefix, b"leader", ttl_s=30)
    await leader.campaign()

    async def scenario(moment: Moment) -> None:
        election = Election(client, shared_etcd.config(), prefix, b"me", ttl_s=TTL_S)
        task = asyncio.create_task(election.campaign())
        await turn_of(lambda: election.key != "")
        await moment.come(task)
        task.cancel()
        await ended(task, moment)
        assert task.cancelled()
        await election.resign()

    await at_each(scenario)
    await leader.resign()


async def test_a_campaign_ends_when_its_client_is_closed(shared_etcd: EtcdCluster, prefix: str) -> None:
    leads = EtcdClient(shared_etcd.config())
    leader = Election(leads, shared_etcd.config(), prefix, b"leader", ttl_s=30)
    await leader.campaign()

    async def scenario(moment: Moment) -> None:
        client = EtcdClient(shared_etcd.config())
        election = Election(client, shared_etcd.config(), prefix, b"me", ttl_s=TTL_S)
        task = asyncio.create_task(election.campaign())
        await moment.come(task)
        await client.close()
        await ended(task, moment)
        assert isinstance(task.exception(), MeshError), repr(task.exception())
        assert election.key == ""

    await at_each(scenario)
    await leader.resign()
    await leads.close()


async def test_a_second_campaign_of_a_candidate_can_be_left_at_any_moment(
    client: EtcdClient, shared_etcd: EtcdCluster, prefix: str
) -> None:
    """It first gives up what it has: from the end of that lease on."""

    async def scenario(moment: Moment) -> None:
        election = Election(client, shared_etcd.config(), prefix, b"me", ttl_s=TTL_S)
        before = set(threading.enumerate())
        await election.campaign()
        renews = next(thread for thread in set(threading.enumerate()) - before if thread.name == "mesh-lease")
        task = asyncio.create_task(election.campaign())
        await turn_of(lambda: not renews.is_alive())
        await moment.come(task)
        over = task.done()
        task.cancel()
        await ended(task, moment)
        assert task.cancelled() or over
        await election.resign()

    await at_each(scenario)


async def test_giving_up_leadership_can_be_left_at_any_moment(
    client: EtcdClient, shared_etcd: EtcdCluster, prefix: str
) -> None:
    async def scenario(moment: Moment) -> None:
        election = Election(client, shared_etcd.config(), prefix, b"me", ttl_s=TTL_S)
        leadership = await election.campaign()
        await cut(election.resign(), moment)
        await election.resign()
        if moment.turns:
            await asyncio.wait_for(leadership.lost.wait(), LONG_S)

    await at_each(scenario)


async def test_a_cache_can_be_closed_at_any_moment(client: EtcdClient, prefix: str) -> None:
    async def scenario(moment: Moment) -> None:
        cache = PrefixCache(client, prefix)
        start = asyncio.create_task(cache.start(wait_s=LONG_S))
        reader = asyncio.create_task(_read(cache))
        await moment.come(start)
        await ended(asyncio.create_task(cache.close()), moment)
        for task in (start, reader):
            await ended(task, moment)
            assert isinstance(task.exception(), FailedPrecondition | None), repr(task.exception())

    await at_each(scenario)


async def test_closing_a_cache_can_be_left_at_any_moment_and_asked_again(client: EtcdClient, prefix: str) -> None:
    async def scenario(moment: Moment) -> None:
        cache = PrefixCache(client, prefix)
        await cache.start(wait_s=LONG_S)
        await cut(cache.close(), moment)
        await cache.close()

    await at_each(scenario)


async def test_readers_of_a_cache_end_when_its_client_is_closed(shared_etcd: EtcdCluster, prefix: str) -> None:
    async def scenario(moment: Moment) -> None:
        client = EtcdClient(shared_etcd.config())
        cache = PrefixCache(client, prefix)
        await cache.start()
        reader = asyncio.create_task(_read(cache))
        await moment.come(reader)
        await client.close()
        await ended(reader, moment)
        assert isinstance(reader.exception(), MeshError), repr(reader.exception())
        await cache.close()

    await at_each(scenario)


async def _read(cache: PrefixCache) -> None:
    async for _ in cache.subscribe():
        continue
