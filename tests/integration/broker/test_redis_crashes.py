"""Brokers whose journals are in Redis: killed, moved to other nodes, paused; and Redis itself killed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from serving._proto import broker_pb2 as bpb
from serving._proto.broker_pb2_grpc import BrokerStub
from tests.support.broker_process import LoneBroker
from tests.support.pulling import HandReplica
from tests.support.redis_server import LoneRedis
from tests.support.waiting import aeventually, eventually_async

ROUNDS = 3


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoneRedis]:
    with LoneRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server


def submit(name: str) -> bpb.SubmitRequest:
    return bpb.SubmitRequest(deployment="worker", request=bpb.Request(infer=name.encode()), idempotency_key=name)


def stub_of(channel: grpc.aio.Channel) -> Any:
    return BrokerStub(channel)  # type: ignore[no-untyped-call]


async def address_of(broker: LoneBroker) -> str:
    return await asyncio.to_thread(lambda: broker.address)


async def asking(stub: Any, client: int, acknowledged: dict[str, str], *, on: bool = False) -> None:
    """Submits until the broker is killed; `on`: until cancelled, the same again after errors."""
    for number in range(100_000):
        name = f"{client}-{number}-{id(stub)}"
        while name not in acknowledged:
            try:
                acknowledged[name] = (await stub.Submit(submit(name))).ticket
            except grpc.aio.AioRpcError as error:
                if not on:
                    return
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.05)


async def states(stub: Any, tickets: list[str]) -> set[int]:
    return {(await stub.Get(bpb.GetRequest(ticket=ticket))).state for ticket in tickets}


async def test_each_node_s_broker_goes_on_with_what_the_one_before_had_confirmed(
    tmp_path: Path, redis: LoneRedis
) -> None:
    """Every round on another node: nothing but the Redis server is the same."""
    acknowledged: dict[str, str] = {}
    where = f"{redis.port}:t/moved/queue"
    for round_ in range(ROUNDS):
        with LoneBroker(tmp_path / f"node{round_}", redis=where, name="b") as broker:
            async with grpc.aio.insecure_channel(await address_of(broker)) as channel:
                stub = stub_of(channel)
                wanted = len(acknowledged) + 50 + 37 * round_
                tasks = [asyncio.create_task(asking(stub, client, acknowledged)) for client in range(8)]
                await eventually_async(lambda wanted=wanted: len(acknowledged) > wanted, what="submits")
                await asyncio.to_thread(broker.kill)
                await asyncio.gather(*tasks)
    with LoneBroker(tmp_path / "last", redis=where, name="b") as broker:
        async with grpc.aio.insecure_channel(await address_of(broker)) as channel:
            stub = stub_of(channel)
            assert await states(stub, list(acknowledged.values())) == {bpb.QUEUED}
            repeated = [await stub.Submit(submit(name)) for name in list(acknowledged)[:50]]
            assert [reply.ticket for reply in repeated] == list(acknowledged.values())[:50]
            queued = (await stub.Statistics(bpb.StatisticsRequest())).queues[0].queued
            replica = await HandReplica(channel).connect(more=10_000)
            asked = [(await replica.work()).request.infer.decode() for _ in range(queued)]
            assert len(set(asked)) == queued, "each is handed out once"
            assert set(acknowledged) <= set(asked)


async def test_a_broker_of_another_node_adopts_and_goes_on_with_what_runs(tmp_path: Path, redis: LoneRedis) -> None:
    where = f"{redis.port}:t/adopted/queue"
    with (
        LoneBroker(tmp_path / "one", redis=where, lease_s=30) as first,
        LoneBroker(tmp_path / "two", redis=where, lease_s=30) as second,
    ):
        addresses = await address_of(first), await address_of(second)
        assert not set(first.journals) & set(second.journals)
        journals = first.journals
        async with grpc.aio.insecure_channel(addresses[0]) as channel:
            tickets = [(await stub_of(channel).Submit(submit(str(number)))).ticket for number in range(3)]
            replica = await HandReplica(channel).connect(more=2)
            done, runs = await replica.work(), await replica.work()
            assert await replica.finish(done, b"before")
            first.kill()
        await eventually_async(lambda: second.serves(*journals), what="adoption")
        async with grpc.aio.insecure_channel(addresses[1]) as channel:
            stub = stub_of(channel)
            item = await stub.Get(bpb.GetRequest(ticket=tickets[0]))
            assert (item.state, item.result.infer) == (bpb.SUCCEEDED, b"before")
            moved = await HandReplica(channel, held=[bpb.Held(item=runs.item, attempt=1)]).connect(more=1)
            assert not moved.welcome.lost
            last = await moved.work()
            for work in (runs, last):
                assert await moved.finish(work, b"after")
            for ticket in tickets[1:]:
                item = await stub.Get(bpb.GetRequest(ticket=ticket))
                assert (item.state, item.attempts, item.result.infer) == (bpb.SUCCEEDED, 1, b"after")


async def test_a_broker_that_was_taken_for_dead_changes_nothing_any_more(tmp_path: Path, redis: LoneRedis) -> None:
    where = f"{redis.port}:t/paused/queue"
    with LoneBroker(tmp_path / "one", redis=where) as first, LoneBroker(tmp_path / "two", redis=where) as second:
        addresses = await address_of(first), await address_of(second)
        journals = first.journals
        async with grpc.aio.insecure_channel(addresses[0]) as old, grpc.aio.insecure_channel(addresses[1]) as new:
            ticket = (await stub_of(old).Submit(submit("early"))).ticket
            first.pause()
            try:
                await eventually_async(lambda: second.serves(*journals), what="it is taken over")
                late = asyncio.ensure_future(stub_of(old).Submit(submit("late"), timeout=20))
            finally:
                first.go_on()
            with contextlib.suppress(grpc.aio.AioRpcError):
                reply = await late
                assert reply.ticket.partition(".")[0] not in journals, "it has a journal of its own by then"
            assert (await stub_of(new).Get(bpb.GetRequest(ticket=ticket))).state == bpb.QUEUED
            replica = await HandReplica(new).connect(more=5)
            work = await replica.work()
            assert (work.item, await replica.finish(work)) == (ticket.rpartition(".")[0], True)
            await eventually_async(lambda: not first.serves(*journals), what="the old one gives it up")
            assert (await stub_of(new).Get(bpb.GetRequest(ticket=ticket))).state == bpb.SUCCEEDED


async def test_what_was_confirmed_survives_kills_of_the_redis_server(tmp_path: Path) -> None:
    """Clients are answered UNAVAILABLE while it is away, and the same broker goes on when it is back."""
    acknowledged: dict[str, str] = {}
    with (
        LoneRedis(tmp_path / "redis") as redis,
        LoneBroker(tmp_path / "one", redis=f"{redis.port}:t/killed/queue") as broker,
    ):
        async with grpc.aio.insecure_channel(await address_of(broker)) as channel:
            stub = stub_of(channel)
            tasks = [asyncio.create_task(asking(stub, client, acknowledged, on=True)) for client in range(4)]
            for round_ in range(ROUNDS):
                wanted = len(acknowledged) + 40
                await eventually_async(lambda wanted=wanted: len(acknowledged) > wanted, what="submits")
                redis.kill()
                if round_:  # longer than a commit is tried again
                    await eventually_async(lambda: not broker.journals, what="the journal is given up")
                    with pytest.raises(grpc.aio.AioRpcError) as refused:
                        await stub.Submit(submit("while it is away"))
                    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
                await asyncio.to_thread(redis.start)
            wanted = len(acknowledged) + 40
            await eventually_async(lambda: len(acknowledged) > wanted, what="submits")
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(one, asyncio.CancelledError) for one in ended), ended

            async def is_there() -> bool:
                return await states(stub, list(acknowledged.values())) == {bpb.QUEUED}

            await aeventually(is_there, what="all of them")
