"""Brokers as processes that are killed."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from serving._proto import broker_pb2 as bpb
from serving._proto.broker_pb2_grpc import BrokerStub
from serving.broker.large_results import LARGE_BYTES
from tests.support.broker_process import LoneBroker
from tests.support.pulling import HandReplica
from tests.support.waiting import eventually_async

KILLS = 5

LARGE = b"before" * (LARGE_BYTES // 5)  # it has a file of its own


def submit(name: str) -> bpb.SubmitRequest:
    return bpb.SubmitRequest(deployment="worker", request=bpb.Request(infer=name.encode()), idempotency_key=name)


async def asking(stub: Any, client: int, acknowledged: dict[str, str]) -> None:
    """Submits until the broker is killed."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        for _ in range(100_000):
            name = f"{client}-{len(acknowledged)}"
            acknowledged[name] = (await stub.Submit(submit(name))).ticket


async def test_every_acknowledged_submit_survives_kills_in_the_middle_of_writing(tmp_path: Path) -> None:
    acknowledged: dict[str, str] = {}
    for round_ in range(KILLS):
        with LoneBroker(tmp_path) as broker:
            address = await asyncio.to_thread(lambda broker=broker: broker.address)
            async with grpc.aio.insecure_channel(address) as channel:
                stub: Any = BrokerStub(channel)  # type: ignore[no-untyped-call]
                wanted = len(acknowledged) + 50 + 37 * round_
                tasks = [asyncio.create_task(asking(stub, client, acknowledged)) for client in range(8)]
                await eventually_async(lambda wanted=wanted: len(acknowledged) > wanted, what="submits")
                await asyncio.to_thread(broker.kill)
                await asyncio.gather(*tasks)
    with LoneBroker(tmp_path) as broker:
        address = await asyncio.to_thread(lambda: broker.address)
        async with grpc.aio.insecure_channel(address) as channel:
            stub = BrokerStub(channel)  # type: ignore[no-untyped-call]
            items = [await stub.Get(bpb.GetRequest(ticket=ticket)) for ticket in acknowledged.values()]
            assert {item.state for item in items} == {bpb.QUEUED}
            repeated = [await stub.Submit(submit(name)) for name in list(acknowledged)[:100]]
            assert [reply.ticket for reply in repeated] == list(acknowledged.values())[:100]
            queued = (await stub.Statistics(bpb.StatisticsRequest())).queues[0].queued
            replica = await HandReplica(channel).connect(more=10_000)
            asked = [(await replica.work()).request.infer.decode() for _ in range(queued)]
            assert len(set(asked)) == queued, "each is handed out once"
            assert set(acknowledged) <= set(asked)


async def test_another_broker_adopts_the_journal_of_one_that_was_killed(tmp_path: Path) -> None:
    with LoneBroker(tmp_path, lease_s=30) as first, LoneBroker(tmp_path, lease_s=30) as second:
        addresses = await asyncio.to_thread(lambda: (first.address, second.address))
        assert not set(first.journals) & set(second.journals)
        journals = first.journals
        async with grpc.aio.insecure_channel(addresses[0]) as channel:
            stub: Any = BrokerStub(channel)  # type: ignore[no-untyped-call]
            tickets = [(await stub.Submit(submit(str(number)))).ticket for number in range(3)]
            replica = await HandReplica(channel).connect(more=2)
            done, runs = await replica.work(), await replica.work()
            assert await replica.finish(done, LARGE)
            first.kill()
        await eventually_async(lambda: second.serves(*journals), what="adoption")
        async with grpc.aio.insecure_channel(addresses[1]) as channel:
            stub = BrokerStub(channel)  # type: ignore[no-untyped-call]
            item = await stub.Get(bpb.GetRequest(ticket=tickets[0]))
            assert (item.state, item.result.infer) == (bpb.SUCCEEDED, LARGE)
            again = await stub.Submit(submit("2"))
            assert (again.ticket, again.repeated) == (tickets[2], True), "keys of an adopted journal are known"
            moved = await HandReplica(channel, held=[bpb.Held(item=runs.item, attempt=1)]).connect(more=1)
            assert not moved.welcome.lost
            last = await moved.work()
            assert last.request.infer == b"2"
            for work in (runs, last):
                assert await moved.finish(work, b"after")
            for ticket in tickets[1:]:
                item = await stub.Get(bpb.GetRequest(ticket=ticket))
                assert (item.state, item.attempts, item.result.infer) == (bpb.SUCCEEDED, 1, b"after")


async def test_an_adopted_journal_is_removed_when_it_is_empty(tmp_path: Path) -> None:
    with LoneBroker(tmp_path, result_ttl_s=0.5) as first, LoneBroker(tmp_path, result_ttl_s=0.5) as second:
        addresses = await asyncio.to_thread(lambda: (first.address, second.address))
        (journal,) = first.journals
        async with grpc.aio.insecure_channel(addresses[0]) as channel:
            await BrokerStub(channel).Submit(submit("one"))  # type: ignore[no-untyped-call]
        first.drain()
        await eventually_async(lambda: second.serves(journal), what="adoption")
        assert (tmp_path / f"{journal}.sqlite").exists()
        async with grpc.aio.insecure_channel(addresses[1]) as channel:
            replica = await HandReplica(channel).connect(more=1)
            assert await replica.finish(await replica.work(), LARGE)
        await eventually_async(lambda: not second.serves(journal), what="the empty journal is gone")
        await eventually_async(lambda: not list(tmp_path.glob(f"{journal}*")), what="its files are gone")
        assert second.journals
