"""What becomes of items at a broker: cancelled, tried again, lost with their replicas, expired, handed over."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest

from serving._proto import broker_pb2 as bpb
from tests.support.served_broker import Served, submit
from tests.support.waiting import aeventually, eventually_async

CODE = grpc.StatusCode


async def test_cancel_retry_and_list(served: Served) -> None:
    tickets = [await served.submit(tenant="t", labels={"n": str(number)}) for number in range(5)]
    replica = await served.pulling()
    work = await replica.work()
    assert (await served.stub.Cancel(bpb.CancelRequest(ticket=tickets[4]))).state == bpb.CANCELLED
    assert (await served.stub.Cancel(bpb.CancelRequest(ticket=tickets[0]))).state == bpb.CANCELLED
    stop = (await replica.next()).stop
    assert (stop.item, stop.attempt) == (work.item, 1)
    assert not await replica.finish(work)
    listed = await served.stub.List(bpb.ListRequest(states=[bpb.CANCELLED], tenant="t"))
    assert [item.labels["n"] for item in listed.items] == ["0", "4"]
    assert not any(item.ticket for item in listed.items)
    seen: list[str] = []
    page = ""
    while True:
        listed = await served.stub.List(bpb.ListRequest(limit=2, page=page))
        seen += [item.labels["n"] for item in listed.items]
        if not (page := listed.next):
            break
    assert seen == list("01234")
    assert (await served.stub.Retry(bpb.RetryRequest(ticket=listed.items[-1].id))).state == bpb.QUEUED
    again = await served.stub.Retry(bpb.RetryRequest(ticket=tickets[0]))
    assert (again.state, again.attempts) == (bpb.QUEUED, 0)
    shown = await served.get(listed.items[0].id)
    assert not shown.ticket, "an id is for looking, not for fetching"
    await replica.credit(1)
    assert (await replica.work()).item == work.item


async def test_attempts_end_in_the_dead_letters(tmp_path: Path) -> None:
    async with Served(tmp_path, max_attempts=2) as served:
        ticket = await served.submit()
        replica = await served.pulling(1)
        for attempt in (1, 2):
            work = await replica.work()
            assert work.attempt == attempt
            await replica.again(work)
            assert (await replica.next()).stored.wanted
            await replica.credit(1)
        item = await served.get(ticket, 30.0)
        assert item.state == bpb.DEAD
        assert "it is full" in item.reason
        assert (await served.queue()).dead == 1
        await served.stub.Retry(bpb.RetryRequest(ticket=ticket))
        assert (await replica.work()).attempt == 3
        assert (await served.queue()).dead == 0


async def test_a_lease_ends_when_nothing_is_said(tmp_path: Path) -> None:
    async with Served(tmp_path, lease_s=0.5) as served:
        ticket = await served.submit()
        silent = await served.pulling(1, "silent")
        work = await silent.work()
        other = await served.pulling(1, "other")
        second = await other.work()
        assert (second.item, second.attempt) == (work.item, 2)
        assert (await silent.next()).stop.item == work.item
        assert not await silent.finish(work, b"late")
        assert await other.finish(second, b"right")
        assert (await served.get(ticket, 30.0)).result.infer == b"right"


async def test_who_hangs_gets_nothing_before_it_says_something_again(tmp_path: Path) -> None:
    """Else its credits would use up all attempts of what waits."""
    async with Served(tmp_path, lease_s=0.5) as served:
        ticket = await served.submit()
        hung = await served.pulling(9, "hung")
        work = await hung.work()
        assert (await hung.next()).stop.item == work.item
        await served.submit()
        assert (await served.get(ticket)).state == bpb.QUEUED
        other = await served.pulling(2, "other")
        given = [await other.work() for _ in range(2)]
        assert sorted(one.attempt for one in given) == [1, 2]
        for one in given:
            await other.finish(one)
        await hung.credit(1)
        await served.submit()
        assert (await hung.work()).attempt == 1


async def test_who_connects_again_keeps_what_it_holds(served: Served) -> None:
    tickets = [await served.submit() for _ in range(3)]
    replica = await served.pulling(3)
    works = [await replica.work() for _ in tickets]
    await replica.close()
    held = [bpb.Held(item=works[0].item, attempt=1), bpb.Held(item=works[1].item, attempt=9)]
    again = await served.pulling(0, held=held)
    assert [each.attempt for each in again.welcome.lost] == [9]
    assert await again.finish(works[0])
    await aeventually(lambda: _queued(served, 2), what="what it did not name waits again")
    restarted = await served.pulling(2, process="q")
    assert (await again.ended())[0] is CODE.ABORTED
    assert {(await restarted.work()).attempt for _ in range(2)} == {2}


async def _queued(served: Served, count: int) -> bool:
    return (await served.queue()).queued == count


async def test_a_replica_that_is_gone_gives_its_items_back(served: Served) -> None:
    await served.submit()
    replica = await served.pulling(1)
    await replica.work()
    served.broker.endpoint_left("r")
    await asyncio.sleep(0.1)
    assert (await served.queue()).running == 1, "it drains: it is still connected"
    await replica.close()
    await aeventually(lambda: _queued(served, 1), what="its item waits again")


async def test_older_generations_get_no_work_while_newer_pull(served: Served) -> None:
    old = await served.pulling(5, "old", generation=1)
    new = await served.pulling(1, "new", generation=2)
    for _ in range(2):
        await served.submit()
    work = await new.work()
    assert (await served.queue()).queued == 1
    assert await new.finish(work)
    await new.close()
    assert (await old.work()).attempt == 1


async def test_deadlines(served: Served) -> None:
    waits = await served.submit(deadline_s=0.2)
    item = await served.get(waits, 30.0)
    assert (item.state, item.attempts) == (bpb.EXPIRED, 0)
    runs = await served.submit(deadline_s=1.0)
    replica = await served.pulling(1)
    work = await replica.work()
    assert 0 < work.left_s <= 1.0
    assert (await replica.next()).stop.item == work.item
    assert (await served.get(runs, 30.0)).state == bpb.EXPIRED


async def test_a_client_that_goes_away_leaves_nothing(served: Served) -> None:
    ticket = await served.submit()
    calls = [served.stub.Get(bpb.GetRequest(ticket=ticket, wait_s=60)) for _ in range(5)]
    follows = [served.stub.Follow(bpb.FollowRequest(ticket=ticket)) for _ in range(5)]
    reads = [asyncio.create_task(call.read()) for call in follows]
    (shard,) = served.broker.home.shards.values()
    await eventually_async(lambda: shard.watchers.watched(1), what="somebody waits")
    await asyncio.sleep(0.05)
    for call in (*calls, *follows):
        call.cancel()
    await asyncio.gather(*reads, return_exceptions=True)
    await eventually_async(lambda: not shard.watchers.watched(1), what="nobody waits")
    short = await served.stub.Get(bpb.GetRequest(ticket=ticket, wait_s=60), timeout=0.5)
    assert short.state == bpb.QUEUED, "a Get answers within its call's deadline"


async def test_submits_of_clients_that_go_away_are_whole(served: Served) -> None:
    calls = [served.stub.Submit(submit(idempotency_key=str(number))) for number in range(50)]
    await asyncio.sleep(0.002)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    replies = [await served.stub.Submit(submit(idempotency_key=str(number))) for number in range(50)]
    assert len({reply.ticket for reply in replies}) == 50
    replica = await served.pulling(100)
    assert len({(await replica.work()).item for _ in range(50)}) == 50
    assert (await served.queue()).queued == 0


async def test_a_slow_follower_slows_nobody(served: Served) -> None:
    ticket = await served.submit()
    slow = served.stub.Follow(bpb.FollowRequest(ticket=ticket))
    replica = await served.pulling(2)
    work = await replica.work()
    for number in range(100):
        await replica.progress(work, bytes(50_000), first=number)
    assert await replica.finish(work)
    assert (await served.get(ticket, 30.0)).state == bpb.SUCCEEDED
    numbers: list[int] = []
    while (reply := await slow.read()).HasField("part"):
        numbers.append(reply.part.number)
    assert reply.ended.result.infer == b"answer"
    assert numbers == sorted(numbers)
    assert numbers[-1] == 99


async def test_draining_hands_the_journal_over(tmp_path: Path) -> None:
    async with Served(tmp_path) as first, Served(tmp_path) as second:
        journal, own = first.broker.journals[0], second.broker.journals
        ticket = await first.submit()
        waiting = asyncio.create_task(first.get(ticket, 60.0))
        replica = await first.pulling(1)
        work = await replica.work()
        first.broker.refuse()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await first.submit()
        assert caught.value.code() is CODE.UNAVAILABLE
        assert "takes no new requests" in (caught.value.details() or "")
        with pytest.raises(grpc.aio.AioRpcError):
            await waiting
        assert (await replica.ended())[0] is CODE.UNAVAILABLE
        await first.broker.wait_idle()
        await first.broker.close()
        await eventually_async(lambda: journal in second.broker.journals, what="adoption")
        moved = await second.pulling(0, held=[bpb.Held(item=work.item, attempt=1)])
        assert not moved.welcome.lost
        assert await moved.finish(work, b"moved")
        assert (await second.get(ticket, 30.0)).result.infer == b"moved"
        assert own[0] in second.broker.journals


async def test_the_load_that_replicas_are_scaled_by(served: Served) -> None:
    tickets = [await served.submit() for _ in range(8)]
    first = served.broker.load()
    assert (first.queues[0].deployment, first.queues[0].queued, first.queues[0].replicas) == ("worker", 8, 0)
    assert first.queues[0].oldest_age_s >= 0
    assert first.queues[0].work_s == 0, "nothing has ended yet"
    assert (first.queues[1].deployment, first.queues[1].queued) == ("other", 0)
    assert not first.reading
    replica = await served.pulling(5)
    works = [await replica.work() for _ in range(5)]
    for work in works:
        assert await replica.finish(work)
    await replica.credit(2)
    await replica.work()
    await replica.work()
    busy = served.broker.load().queues[0]
    assert (busy.queued, busy.running, busy.places, busy.replicas) == (1, 2, 2, 1)
    first_run_s, later = busy.longest_run_s["r"], served.broker.load()
    assert set(busy.longest_run_s) == {"r"}
    assert 0 <= first_run_s < later.queues[0].longest_run_s["r"] < 60
    assert not later.queues[1].longest_run_s
    items = [await served.get(ticket) for ticket in tickets[:5]]
    took_s = [(item.ended.ToMicroseconds() - item.started.ToMicroseconds()) / 1e6 for item in items]
    assert busy.work_s == pytest.approx(sum(took_s) / 5, abs=1e-5)


async def test_many_requests_at_once_are_all_taken(served: Served) -> None:
    """gRPC's own default drops some of those above a thousand."""
    tickets = await asyncio.gather(*(served.submit() for _ in range(3000)))
    assert len(set(tickets)) == 3000
