"""Leases that outlive a blocked loop and say when they are lost; one leader at a time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from store_support import LONG_S, eventually

from serving.config import EtcdConfig
from serving.errors import FailedPrecondition, InvalidArgument, StoreUnavailable, Unauthenticated
from serving.local.etcd import EtcdCluster, EtcdOptions
from serving.local.ports import free_ports
from serving.store import Election, EtcdClient, Leadership, Lease, Op

ROOT = Path(__file__).parents[3]
TRIES = 3  # a machine that stops for seconds takes any short lease, but not each time


@contextlib.asynccontextmanager
async def held(config: EtcdConfig, ttl_s: int) -> AsyncIterator[Lease]:
    lease = Lease(config, ttl_s=ttl_s)
    await lease.start()
    try:
        yield lease
    finally:
        await lease.revoke()


async def test_a_lease_outlives_a_loop_that_is_blocked_for_longer_than_its_ttl(client: EtcdClient, prefix: str) -> None:
    outlived: list[bool] = []
    while len(outlived) < TRIES and not any(outlived):
        async with held(client.config, 5) as lease:
            await client.put(prefix + "a", b"1", lease=lease.id)
            time.sleep(7.0)  # noqa: ASYNC251 - that is the point
            outlived.append(lease.held() and await client.get(prefix + "a") is not None)
            assert not outlived[-1] or not lease.lost.is_set()
        assert lease.lost.is_set()
        assert not lease.held()
        assert await client.get(prefix + "a") is None
    assert any(outlived)


async def test_an_abandoned_lease_runs_out_by_itself(client: EtcdClient, prefix: str) -> None:
    lease = Lease(client.config, ttl_s=5)
    await lease.start()
    await client.put(prefix + "a", b"1", lease=lease.id)
    await lease.abandon()
    assert lease.lost.is_set()
    assert await client.get(prefix + "a") is not None
    deadline = time.monotonic() + LONG_S
    while await client.get(prefix + "a") is not None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_a_lease_that_somebody_ended_is_lost(client: EtcdClient) -> None:
    async with held(client.config, 6) as lease:
        await client.revoke(lease.id)
        await client.revoke(lease.id)  # again: no error
        await asyncio.wait_for(lease.lost.wait(), LONG_S)
        assert not lease.held()


async def test_a_lease_is_lost_when_etcd_is_away_and_not_before_its_time(
    own_etcd: Callable[..., EtcdCluster],
) -> None:
    etcd = own_etcd()
    lived_s: list[float] = []
    while len(lived_s) < TRIES and max(lived_s, default=0.0) <= 3.0:
        async with held(etcd.config(), 9) as lease:
            killed_at = time.monotonic()
            await asyncio.to_thread(etcd.kill)
            await asyncio.wait_for(lease.lost.wait(), LONG_S)
            lived_s.append(time.monotonic() - killed_at)
            assert not lease.held()
        await asyncio.to_thread(etcd.start)
    assert max(lived_s) > 3.0  # renewed three seconds ago, were it in time: it lives six more


async def test_a_lease_goes_on_when_etcd_comes_back_in_time(own_etcd: Callable[..., EtcdCluster], prefix: str) -> None:
    etcd = own_etcd()
    client = EtcdClient(etcd.config())
    async with held(etcd.config(), 60) as lease:
        await client.put(prefix + "a", b"1", lease=lease.id)
        await asyncio.to_thread(etcd.restart)
        assert await client.get(prefix + "a") is not None
        assert lease.held()
    assert await client.get(prefix + "a") is None
    await client.close()


async def test_no_lease_without_etcd_and_the_same_object_can_try_again(own_etcd: Callable[..., EtcdCluster]) -> None:
    etcd = own_etcd()
    config = EtcdConfig(endpoints=etcd.endpoints, request_timeout_s=0.3, max_attempts=2)
    await asyncio.to_thread(etcd.stop)
    lease = Lease(config, ttl_s=30)
    with pytest.raises(StoreUnavailable, match="take a lease"):
        await lease.start()
    assert not lease.held()
    await asyncio.to_thread(etcd.start)
    assert await _patiently(lease) > 0
    assert lease.held()
    assert not lease.lost.is_set()
    with pytest.raises(FailedPrecondition, match="started already"):
        await lease.start()
    await lease.revoke()
    await lease.revoke()


async def _patiently(lease: Lease) -> int:
    """Its number; it has little patience of its own, for a machine that may be busy."""
    deadline = time.monotonic() + LONG_S
    while True:
        try:
            return await lease.start()
        except StoreUnavailable:
            assert time.monotonic() < deadline


async def test_a_start_that_is_cancelled_leaves_no_thread(shared_etcd: EtcdCluster) -> None:
    endpoint = f"127.0.0.1:{free_ports(1)[0]}"
    for config in (EtcdConfig(endpoints=(endpoint,)), shared_etcd.config()):
        lease = Lease(config, ttl_s=5)
        starting = asyncio.create_task(lease.start())
        await asyncio.sleep(0.001)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await lease.revoke()
        assert not lease.held()


def test_a_lease_lives_at_least_a_second() -> None:
    with pytest.raises(InvalidArgument, match="at least 1 s"):
        Lease(EtcdConfig(endpoints=("127.0.0.1:1",)), ttl_s=0)


async def test_the_oldest_leads_and_the_next_follows(shared_etcd: EtcdCluster, prefix: str) -> None:
    config = shared_etcd.config()
    clients = [EtcdClient(config) for _ in range(3)]
    elections = [
        Election(client, config, prefix, b"candidate %d" % number, ttl_s=30) for number, client in enumerate(clients)
    ]
    leaders: list[tuple[int, Leadership]] = []
    campaigns = []
    for election in elections:
        campaigns.append(asyncio.create_task(election.campaign()))
        await eventually(lambda election=election: bool(election.key), "the candidate's lease")
        while await clients[0].get(election.key) is None:  # noqa: ASYNC110 - the fact is in etcd
            await asyncio.sleep(0.01)
    candidates = (await clients[0].get_prefix(prefix)).kvs
    assert {kv.value for kv in candidates} == {b"candidate 0", b"candidate 1", b"candidate 2"}
    for number in range(3):
        leaders.append((number, await asyncio.wait_for(campaigns[number], LONG_S)))
        assert all(not campaign.done() for campaign in campaigns[number + 1 :])
        leadership = leaders[-1][1]
        assert leadership.held()
        assert (await clients[number].txn([leadership.fence], [Op.put(prefix + "work", b"%d" % number)])).succeeded
        await elections[number].resign()
        assert leadership.lost.is_set()
        assert not (await clients[number].txn([leadership.fence], [Op.put(prefix + "work", b"old")])).succeeded
    kv = await clients[0].get(prefix + "work")
    assert kv is not None
    assert kv.value == b"2"
    for client in clients:
        await client.close()


async def test_a_leader_whose_key_is_removed_is_told(client: EtcdClient, prefix: str) -> None:
    election = Election(client, client.config, prefix, b"me", ttl_s=30)
    leadership = await election.campaign()
    await client.delete(leadership.key)
    await asyncio.wait_for(leadership.lost.wait(), LONG_S)
    again = await election.campaign()  # the same candidate may stand again
    assert again.key != leadership.key
    await election.resign()
    await election.resign()


async def test_a_candidate_can_change_its_record(client: EtcdClient, prefix: str) -> None:
    election = Election(client, client.config, prefix, b"old", ttl_s=30)
    leadership = await election.campaign()
    await election.update(b"new")
    kv = await client.get(leadership.key)
    assert kv is not None
    assert kv.value == b"new"
    assert not leadership.lost.is_set()
    await election.resign()


LEADER = """
import asyncio, sys
from serving.config import EtcdConfig
from serving.store import Election, EtcdClient, Op

async def main():
    config = EtcdConfig(endpoints=(sys.argv[1],))
    client = EtcdClient(config)
    leadership = await Election(client, config, sys.argv[2], b"child", ttl_s=5).campaign()
    print("leads", flush=True)
    for line in iter(sys.stdin.readline, ""):
        result = await client.txn([leadership.fence], [Op.put(sys.argv[2] + "work", b"child")])
        print("written" if result.succeeded else "fenced", flush=True)

asyncio.run(main())
"""


def ask(child: subprocess.Popen[str], text: str = "") -> str:
    if child.stdin is None or child.stdout is None:
        raise RuntimeError("the child has no pipes")
    if text:
        child.stdin.write(text + "\n")
        child.stdin.flush()
    return child.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_the_next_leads_when_the_leader_dies_or_hangs(
    shared_etcd: EtcdCluster, client: EtcdClient, prefix: str, number: signal.Signals
) -> None:
    child = subprocess.Popen(  # noqa: ASYNC220 - it only starts
        [sys.executable, "-c", LEADER, shared_etcd.endpoints[0], prefix],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        assert await asyncio.to_thread(ask, child) == "leads"
        assert await asyncio.to_thread(ask, child, "write") == "written"
        election = Election(client, client.config, prefix, b"me", ttl_s=30)
        campaign = asyncio.create_task(election.campaign())
        await eventually(lambda: bool(election.key), "the candidate's lease")
        assert not campaign.done()
        os.kill(child.pid, number)
        leadership = await asyncio.wait_for(campaign, LONG_S)
        assert (await client.txn([leadership.fence], [Op.put(prefix + "work", b"me")])).succeeded
        if number is signal.SIGSTOP:
            os.kill(child.pid, signal.SIGCONT)
            assert await asyncio.to_thread(ask, child, "write") == "fenced"
        kv = await client.get(prefix + "work")
        assert kv is not None
        assert kv.value == b"me"
        await election.resign()
    finally:
        child.kill()
        child.communicate()


async def test_a_wrong_password_ends_a_campaign(own_etcd: Callable[..., EtcdCluster], tmp_path: Path) -> None:
    etcd = own_etcd(EtcdOptions(die_with_parent=True))
    await asyncio.to_thread(etcd.enable_auth, "root-password", {"mesh": "right"})
    secret = tmp_path / "password"
    secret.write_text("wrong\n")
    config = etcd.config(user="mesh", password_file=str(secret))
    client = EtcdClient(config)
    with pytest.raises(Unauthenticated, match="check the user and the password file"):
        await asyncio.wait_for(Election(client, config, "/mesh/e/", b"", ttl_s=2).campaign(), LONG_S)
    await client.close()
