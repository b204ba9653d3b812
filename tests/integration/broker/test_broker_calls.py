"""`Call` and attended `Follow` of a broker's service: whoever waits on a connection takes the item along."""

from __future__ import annotations

from pathlib import Path

import grpc
import grpc.aio
import pytest

from serving._proto import broker_pb2 as bpb
from serving.broker.clients import GONE
from tests.support.served_broker import Served, submit
from tests.support.waiting import aeventually

CODE = grpc.StatusCode


async def state(served: Served, ticket: str, wanted: int) -> bpb.Item:
    async def there() -> bool:
        return bool((await served.get(ticket)).state == wanted)

    await aeventually(there, what=bpb.State.Name(wanted))
    return await served.get(ticket)


async def test_one_call_submits_and_brings_parts_and_the_end(served: Served) -> None:
    call = served.stub.Call(submit(b"one"))
    ticket = (await call.read()).taken.ticket
    assert (await served.get(ticket)).state == bpb.QUEUED, "it is on disk by then"
    replica = await served.pulling()
    work = await replica.work()
    await replica.progress(work, b"a")
    assert (await call.read()).part.body == b"a"
    await replica.finish(work, b"two")
    ended = (await call.read()).ended
    assert (ended.state, ended.result.infer) == (bpb.SUCCEEDED, b"two")
    assert await call.read() is grpc.aio.EOF
    assert (await served.get(ticket)).state == bpb.SUCCEEDED


async def test_whoever_leaves_takes_one_that_waits_along(served: Served) -> None:
    call = served.stub.Call(submit())
    ticket = (await call.read()).taken.ticket
    call.cancel()
    assert (await state(served, ticket, bpb.CANCELLED)).reason == GONE


async def test_whoever_leaves_stops_one_that_runs(served: Served) -> None:
    replica = await served.pulling()
    call = served.stub.Call(submit(), timeout=5)  # in which it must have begun
    ticket = (await call.read()).taken.ticket
    work = await replica.work()
    assert (await call.code()) is CODE.DEADLINE_EXCEEDED
    stop = (await replica.next()).stop
    assert (stop.item, stop.reason) == (work.item, GONE)
    assert (await state(served, ticket, bpb.CANCELLED)).attempts == 1


async def test_the_next_broker_may_be_attended_to_and_others_leave_it_alone(served: Served) -> None:
    ticket = await served.submit()
    other = served.stub.Follow(bpb.FollowRequest(ticket=ticket))
    replica = await served.pulling()
    await replica.progress(await replica.work(), b"a")
    assert (await other.read()).part.body == b"a"
    other.cancel()
    attended = served.stub.Follow(bpb.FollowRequest(ticket=ticket, attended=True))
    assert (await attended.read()).part.body == b"a"
    assert (await served.get(ticket)).state == bpb.RUNNING
    attended.cancel()
    assert (await state(served, ticket, bpb.CANCELLED)).reason == GONE


async def test_the_item_stays_while_one_of_two_connections_does(served: Served) -> None:
    """Who lost its connection comes back before the broker hears that the first one has gone."""
    call = served.stub.Call(submit())
    ticket = (await call.read()).taken.ticket
    again = served.stub.Follow(bpb.FollowRequest(ticket=ticket, attended=True))
    replica = await served.pulling()
    work = await replica.work()
    await replica.progress(work, b"a")
    assert (await again.read()).part.body == b"a"
    call.cancel()
    await replica.progress(work, b"b", first=1)
    assert (await again.read()).part.body == b"b"
    assert (await served.get(ticket)).state == bpb.RUNNING
    again.cancel()
    assert (await state(served, ticket, bpb.CANCELLED)).reason == GONE


async def test_a_broker_that_leaves_takes_nothing_along(served: Served) -> None:
    call = served.stub.Call(submit())
    ticket = (await call.read()).taken.ticket
    (shard,) = served.broker.home.shards.values()
    served.broker.refuse()
    with pytest.raises(grpc.aio.AioRpcError, match="moves to another broker") as error:
        await call.read()
    assert error.value.code() is CODE.UNAVAILABLE
    found, _ = await served.broker.home.clients[shard.name].get(1)
    assert found.state.live
    assert ticket.startswith(f"{shard.id_of(1)}.")


async def test_a_call_is_not_refused_for_the_time_that_its_result_is_kept(tmp_path: Path) -> None:
    async with Served(tmp_path, result_ttl_s=5.0, max_result_ttl_s=10.0) as served:
        call = served.stub.Call(submit(result_ttl_s=120.0))
        assert (await call.read()).taken.ticket
        call.cancel()


async def test_what_is_not_taken_is_told_as_a_submit_is(served: Served) -> None:
    call = served.stub.Call(submit(deployment="none"))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call.read()
    assert error.value.code() is CODE.NOT_FOUND
    again = [served.stub.Call(submit(idempotency_key="k")) for _ in range(2)]
    taken = [(await one.read()).taken for one in again]
    assert taken[0].ticket == taken[1].ticket
    assert [one.repeated for one in taken] == [False, True]
    for one in again:
        one.cancel()
