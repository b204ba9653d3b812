"""A broker that takes no new requests: what it still does, what it remembers, and how an operator says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from serving import AsyncMeshClient, Connection
from serving._proto import broker_pb2 as bpb
from serving.broker.draining import DRAINED
from serving.broker.leftovers import lying_journals, remove_lying
from serving.errors import FailedPrecondition, NotFound, Unavailable
from serving.local.etcd import EtcdCluster
from tests.support.broker_serving import WORKER, BrokerProcess, broker_config
from tests.support.served_broker import Served, submit
from tests.support.waiting import aeventually, eventually, eventually_async


async def test_what_is_there_goes_on_and_nothing_new_comes(served: Served) -> None:
    ticket = await served.submit(idempotency_key="first")
    dead = await served.submit()
    await served.stub.Cancel(bpb.CancelRequest(ticket=dead))
    reply = await served.stub.Drain(bpb.DrainRequest())
    assert (reply.drained, reply.live, reply.items) == (True, 1, 2)
    assert (await served.stub.Statistics(bpb.StatisticsRequest())).drained
    assert served.metric("mesh_broker_drained") == 1
    for fields in ({}, {"idempotency_key": "second"}):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.submit(**fields)
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNAVAILABLE, DRAINED)
    repeated = await served.stub.Submit(submit(idempotency_key="first"))
    assert (repeated.ticket, repeated.repeated) == (ticket, True)
    several = [submit(), submit(idempotency_key="first"), submit(deployment="nobody's")]
    outcomes = (await served.stub.SubmitMany(bpb.SubmitManyRequest(requests=several))).outcomes
    assert [one.refused.code for one in outcomes] == [14, 0, 5]
    assert outcomes[1].reply.ticket == ticket

    await served.stub.Retry(bpb.RetryRequest(ticket=dead))
    replica = await served.pulling(2)
    for work in [await replica.work(), await replica.work()]:
        assert await replica.finish(work)
    assert (await served.get(ticket)).state == bpb.SUCCEEDED
    assert (await served.get(dead)).state == bpb.SUCCEEDED

    reply = await served.stub.Drain(bpb.DrainRequest(undo=True))
    assert (reply.drained, reply.live) == (False, 0)
    assert served.metric("mesh_broker_drained") == 0
    await served.submit()


async def test_a_key_that_is_on_its_way_to_the_disk_is_known(tmp_path: Path) -> None:
    async with Served(tmp_path, sync="full") as served:
        for number in range(20):
            key = f"key{number}"
            first = asyncio.create_task(served.submit(idempotency_key=key))
            names = served.broker.home.own[1]
            await eventually_async(lambda: names.on_their_way or first.done(), what="it is on its way")  # noqa: B023
            await served.drain()
            again = await served.stub.Submit(submit(idempotency_key=key))
            assert again.ticket == await first
            await served.drain(undo=True)


async def test_it_is_remembered_under_its_name_until_it_is_undone(tmp_path: Path) -> None:
    async with Served(tmp_path, name="queue-r1-0-g1") as served:
        await served.drain()
        await served.drain()
    async with Served(tmp_path, name="queue-r2-0-g1") as other:
        assert not other.broker.draining.on
    async with Served(tmp_path, name="queue-r1-0-g1") as served:
        assert served.broker.draining.on
        await served.drain(undo=True)
        await served.drain(undo=True)
    async with Served(tmp_path, name="queue-r1-0-g1") as served:
        assert not served.broker.draining.on


async def test_what_cannot_be_written_is_not_so(tmp_path: Path) -> None:
    async with Served(tmp_path, name="a/b") as served:  # there is no such folder
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.drain()
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "cannot be changed" in (caught.value.details() or "")
        await served.submit()


# ---------------------------------------------------------------------------------------------------- by an operator

APP = "drained"


@pytest.fixture
async def client(etcd: EtcdCluster) -> AsyncIterator[AsyncMeshClient]:
    async with AsyncMeshClient(Connection(etcd.config())) as made:
        yield made


async def test_an_operator_drains_one_of_two_and_it_stays_so_over_its_death(
    tmp_path: Path, etcd: EtcdCluster, client: AsyncMeshClient
) -> None:
    def start(name: str) -> BrokerProcess:
        folder = tmp_path / name  # of a node of its own
        folder.mkdir(exist_ok=True)
        made = BrokerProcess(folder, broker_config(folder, etcd.config(), name=name, application=APP))
        made.wait_state("ready", registered=True)
        return made

    async def shown(*drained: bool) -> bool:
        try:
            rows = await client.queue.statistics(APP)
        except Unavailable:  # of one that was killed
            return False
        return {row.broker: row.drained for row in rows} == dict(zip(sorted(brokers), drained, strict=True))

    brokers = {name: start(name) for name in ("queue-r1-0", "queue-r1-1")}
    try:
        await aeventually(lambda: shown(False, False), what="both")
        with pytest.raises(NotFound, match="has no broker `queue-r9-0`; it has queue-r1-0, queue-r1-1"):
            await client.queue.drain(APP, "queue-r9-0")
        (told,) = await client.queue.drain(APP, "queue-r1-0")
        assert (told.broker, told.drained, told.live) == ("queue-r1-0", True, 0)
        for _ in range(20):
            await client.submit(APP, WORKER, {"n": [1]})
        counted = {row.broker: row.queued for row in await client.queue.statistics(APP) if row.deployment == WORKER}
        assert counted == {"queue-r1-0": 0, "queue-r1-1": 20}

        brokers["queue-r1-0"].kill()
        brokers["queue-r1-0"] = start("queue-r1-0")
        await aeventually(lambda: shown(True, False), what="it is drained again")
        assert len(await client.queue.drain(APP)) == 2
        with pytest.raises(Unavailable, match="is drained: undo it with"):
            await client.submit(APP, WORKER, {"n": [1]})
        assert [one.drained for one in await client.queue.drain(APP, undo=True)] == [False, False]
        await client.submit(APP, WORKER, {"n": [1]})

        await client.queue.drain(APP, "queue-r1-1")
        brokers["queue-r1-1"].terminate()
        eventually(lambda: brokers["queue-r1-1"].process.poll() is not None, timeout_s=60, what="its end")
        brokers["queue-r1-1"] = start("queue-r1-1")
        await aeventually(lambda: shown(False, False), what="a broker that comes after it")
    finally:
        for one in brokers.values():
            one.end()


# ---------------------------------------------------------------------------------------------------- what is left


async def test_a_broker_that_leaves_removes_its_journals_only_where_it_was_told_so_a_short_time_ago(
    tmp_path: Path,
) -> None:
    for discard_s, undone, removed in ((60.0, False, True), (60.0, True, False), (0.001, False, False)):
        folder = tmp_path / f"{discard_s}-{undone}"
        async with Served(folder, name="queue") as served:
            await served.submit()
            await served.stub.Drain(bpb.DrainRequest(discard_s=discard_s))
            if undone:
                await served.drain(undo=True)
            await eventually_async(lambda: discard_s > 1 or not served.broker.draining.discards, what="its time")  # noqa: B023
        assert bool(list(folder.glob("*.sqlite"))) is not removed
    async with Served(tmp_path) as served:
        for wrong in (bpb.DrainRequest(discard_s=-1), bpb.DrainRequest(discard_s=1, undo=True)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await served.stub.Drain(wrong)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_journals_that_lie_on_a_machine(tmp_path: Path) -> None:
    mine, other = tmp_path / "default" / "app" / "queue", tmp_path / "default" / "gone" / "queue"
    async with Served(other) as served:
        for _ in range(3):
            await served.submit()
        cancelled = await served.submit()
        await served.stub.Cancel(bpb.CancelRequest(ticket=cancelled))
    (other / "broken.sqlite").write_bytes(b"nothing of the kind" * 100)
    async with Served(mine) as served:
        await served.submit()
        found = {one.journal: one for one in await asyncio.to_thread(lying_journals, tmp_path)}
        left = next(one for one in found.values() if one.application == "gone" and not one.problem)
        assert (left.served, left.live, left.dead, left.ended) == (False, 3, 0, 1)
        assert left.bytes > 0
        (own,) = (one for one in found.values() if one.application == "app")
        assert (own.served, own.live) == (True, 1)
        assert "broken.sqlite" in found["broken"].problem
        with pytest.raises(FailedPrecondition, match="is served by a broker"):
            await asyncio.to_thread(remove_lying, tmp_path, own.journal)
        assert (await asyncio.to_thread(remove_lying, tmp_path, left.journal)).live == 3
        with pytest.raises(NotFound):
            await asyncio.to_thread(remove_lying, tmp_path, left.journal)
        assert sorted(path.name for path in other.iterdir()) == ["broken.sqlite"]
    with pytest.raises(FailedPrecondition, match="is no folder of journals"):
        lying_journals(tmp_path / "nowhere")
