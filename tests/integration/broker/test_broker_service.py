"""A broker's service, with real clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from prometheus_client import generate_latest

from serving._proto import broker_pb2 as bpb
from serving.broker import service
from tests.support.served_broker import Served, submit
from tests.support.waiting import aeventually, eventually_async

CODE = grpc.StatusCode


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with Served(tmp_path) as made:
        yield made


async def test_a_request_comes_back_with_its_result(served: Served) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    reply = await served.stub.Submit(submit(b"one", labels={"kind": "x"}), metadata=(("traceparent", trace),))
    waiting = asyncio.create_task(served.get(reply.ticket, 30.0))
    replica = await served.pulling()
    work = await replica.work()
    assert (work.request.infer, work.attempt, work.request.metadata["traceparent"]) == (b"one", 1, trace)
    await replica.progress(work, share=0.25)
    await eventually_async(
        lambda: served.broker.home.clients[work.item.split(".")[0]].progress_of(1) == 0.25, what="progress"
    )
    assert (await served.get(reply.ticket)).state == bpb.RUNNING
    assert await replica.finish(work, b"two")
    item = await waiting
    assert (item.state, item.result.infer, item.replica, item.attempts) == (bpb.SUCCEEDED, b"two", "r", 1)
    assert item.submitted.ToMicroseconds() <= item.started.ToMicroseconds() <= item.ended.ToMicroseconds()
    assert dict(item.labels) == {"kind": "x"}
    assert not await replica.finish(work, b"three"), "a repeated outcome is not wanted"
    assert (await served.get(reply.ticket)).result.infer == b"two"
    assert served.metric("mesh_broker_items_succeeded_total", deployment="worker") == 1
    assert b"mesh_broker_commit_seconds" in generate_latest(served.registry)


async def test_parts_reach_who_follows_also_late(served: Served) -> None:
    ticket = await served.submit()

    async def follow(start: int = 0) -> list[bytes | int]:
        found: list[bytes | int] = []
        async for reply in served.stub.Follow(bpb.FollowRequest(ticket=ticket, from_part=start)):
            found.append(reply.part.body if reply.HasField("part") else reply.ended.state)
        return found

    early = asyncio.create_task(follow())
    replica = await served.pulling()
    work = await replica.work()
    await replica.progress(work, b"a", b"b")
    await replica.progress(work, b"b", b"c", first=1)  # said again: nobody sees it twice
    late = served.stub.Follow(bpb.FollowRequest(ticket=ticket, from_part=1))
    assert [(await late.read()).part.body for _ in range(2)] == [b"b", b"c"]
    await replica.finish(work)
    assert await early == [b"a", b"b", b"c", bpb.SUCCEEDED]
    assert (await late.read()).ended.result.infer == b"answer"
    assert await follow() == [bpb.SUCCEEDED], "parts go with the end, the result has it all"


async def test_a_follower_gets_the_parts_that_are_kept(served: Served) -> None:
    ticket = await served.submit()
    replica = await served.pulling()
    work = await replica.work()
    for number in range(4):
        await replica.progress(work, bytes(400_000), first=number)
    (shard,) = served.broker.home.shards.values()
    await eventually_async(lambda: shard.running[1].partial.next == 4, what="the last part")
    call = served.stub.Follow(bpb.FollowRequest(ticket=ticket))
    assert [(await call.read()).part.number for _ in range(2)] == [2, 3]
    call.cancel()


async def test_another_attempt_begins_parts_anew(served: Served) -> None:
    ticket = await served.submit()
    call = served.stub.Follow(bpb.FollowRequest(ticket=ticket))
    replica = await served.pulling(2)
    work = await replica.work()
    await replica.progress(work, b"a", b"b")
    assert [(await call.read()).part.body for _ in range(2)] == [b"a", b"b"]
    await replica.again(work)
    second = await replica.work()
    assert second.attempt == 2
    await replica.progress(second, b"c")
    part = (await call.read()).part
    assert (part.number, part.attempt, part.body) == (0, 2, b"c")
    call.cancel()


async def test_duplicate_submits_at_once_are_one_item(served: Served) -> None:
    replies = await asyncio.gather(*(served.stub.Submit(submit(idempotency_key="k", tenant="t")) for _ in range(20)))
    assert len({reply.ticket for reply in replies}) == 1
    assert sum(not reply.repeated for reply in replies) == 1
    other = await served.stub.Submit(submit(idempotency_key="k", tenant="u"))
    assert other.ticket != replies[0].ticket
    many = bpb.SubmitManyRequest(requests=[submit(idempotency_key="m")] * 2 + [submit(idempotency_key="k", tenant="t")])
    outcomes = (await served.stub.SubmitMany(many)).outcomes
    assert [one.reply.repeated for one in outcomes] == [False, True, True]
    assert outcomes[2].reply.ticket == replies[0].ticket
    assert (await served.queue()).queued == 3


async def test_many_have_each_their_outcome(served: Served) -> None:
    wrong = [
        submit(deployment="none"),
        submit(callback=bpb.Callback(url="http://x")),
        bpb.SubmitRequest(deployment="worker"),
    ]
    reply = await served.stub.SubmitMany(bpb.SubmitManyRequest(requests=[submit(), *wrong, submit()]))
    codes = [one.refused.code for one in reply.outcomes]
    assert codes == [0, CODE.NOT_FOUND.value[0], CODE.PERMISSION_DENIED.value[0], CODE.INVALID_ARGUMENT.value[0], 0]
    assert (await served.queue()).queued == 2


async def test_many_are_fetched_at_once(served: Served) -> None:
    tickets = [await served.submit(b"%d" % number) for number in range(3)]
    fetching = asyncio.ensure_future(served.stub.GetMany(bpb.GetManyRequest(tickets=tickets[:2], wait_s=30)))
    replica = await served.pulling(more=2)
    for work in [await replica.work() for _ in range(2)]:
        assert await replica.finish(work, work.request.infer * 2)
    found = [one.item for one in (await fetching).outcomes]
    assert [(one.state, one.result.infer) for one in found] == [(bpb.SUCCEEDED, b"00"), (bpb.SUCCEEDED, b"11")]
    assert [one.ticket for one in found] == tickets[:2]

    journal = tickets[0].split(".")[0]
    asked = [tickets[2], f"{journal}.99", "x", tickets[0].rpartition(".")[0]]
    waits, unknown, wrong, by_id = (await served.stub.GetMany(bpb.GetManyRequest(tickets=asked))).outcomes
    assert waits.item.state == bpb.QUEUED
    assert unknown.refused.code == CODE.NOT_FOUND.value[0]
    assert wrong.refused.code == CODE.INVALID_ARGUMENT.value[0]
    assert by_id.item.state == bpb.SUCCEEDED
    assert not by_id.item.HasField("result")
    with pytest.raises(grpc.aio.AioRpcError, match="1001 are more than 1000"):
        await served.stub.GetMany(bpb.GetManyRequest(tickets=["x"] * 1001))


async def test_what_is_fetched_at_once_is_bounded(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_MOST_FETCHED", 1000)
    tickets = [await served.submit() for _ in range(3)]
    replica = await served.pulling(more=3)
    for work in [await replica.work() for _ in tickets]:
        assert await replica.finish(work, bytes(600))
    left = list(tickets)
    sizes = []
    while left:
        reply = await served.stub.GetMany(bpb.GetManyRequest(tickets=left))
        sizes.append(len(reply.outcomes))
        del left[: len(reply.outcomes)]
    assert sizes == [2, 1]


async def test_what_is_said_at_once_counts_one_by_one(served: Served) -> None:
    """Credits, progress and outcomes of several items in one message, and works and confirmations that come so."""
    tickets = [await served.submit(b"%d" % number) for number in range(20)]
    replica = await served.pulling(more=0)
    await replica.say(credits=bpb.Credits(more=5), more=[bpb.PullRequest(credits=bpb.Credits(more=15))])
    works = [await replica.work() for _ in tickets]
    assert [work.request.infer for work in works] == [b"%d" % number for number in range(20)]
    done = [bpb.Done(item=work.item, attempt=1, result=bpb.Result(infer=b"ok")) for work in works]
    await replica.say(done=done[0], more=[bpb.PullRequest(done=one) for one in done[1:]])
    stored = [(await replica.next()).stored for _ in works]
    assert sorted(one.item for one in stored) == sorted(work.item for work in works)
    assert all(one.wanted for one in stored)
    outcomes = (await served.stub.GetMany(bpb.GetManyRequest(tickets=tickets))).outcomes
    assert {one.item.state for one in outcomes} == {bpb.SUCCEEDED}


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (submit(deployment="none"), CODE.NOT_FOUND),
        (submit(callback=bpb.Callback(url="http://x")), CODE.PERMISSION_DENIED),
        (submit(tenant="a\0b"), CODE.INVALID_ARGUMENT),
        (submit(idempotency_key="k" * 257), CODE.INVALID_ARGUMENT),
        (submit(priority=7), CODE.INVALID_ARGUMENT),  # type: ignore[arg-type]
        (submit(deadline_s=-1.0), CODE.INVALID_ARGUMENT),
        (submit(expected_s=float("nan")), CODE.INVALID_ARGUMENT),
        (submit(labels={str(number): "" for number in range(17)}), CODE.INVALID_ARGUMENT),
        (submit(labels={"a": "b" * 65}), CODE.INVALID_ARGUMENT),
        (bpb.SubmitRequest(deployment="worker"), CODE.INVALID_ARGUMENT),
    ],
)
async def test_what_is_wrong_is_answered(served: Served, request_: bpb.SubmitRequest, code: grpc.StatusCode) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.stub.Submit(request_)
    assert caught.value.code() is code
    assert caught.value.details()


async def test_rubbish_is_answered_and_the_next_one_served(served: Served) -> None:
    for method in ("Submit", "SubmitMany", "Get", "GetMany", "Cancel", "Retry", "List"):
        call = served.channel.unary_unary(f"/mesh.broker.v1.Broker/{method}")
        for data in (b"\xff\xff\xff", b"\x0a\x7f", bytes(range(256))):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(data)
            assert caught.value.code() is CODE.INVALID_ARGUMENT, method
    pull = served.channel.stream_stream("/mesh.broker.v1.Broker/Pull")
    for first in (b"\xff\xff", bpb.PullRequest(credits=bpb.Credits(more=1)).SerializeToString()):
        call = pull()
        await call.write(first)
        assert await call.code() is CODE.INVALID_ARGUMENT
    for ticket in ("", "x", "j1.1", "a.b.c", "j" * 10_000):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.get(ticket)
        assert caught.value.code() in (CODE.INVALID_ARGUMENT, CODE.UNAVAILABLE)
    ticket = await served.submit()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.get(ticket[:-22] + "x" * 22)
    assert caught.value.code() is CODE.NOT_FOUND
    assert (await served.get(ticket)).state == bpb.QUEUED


async def test_sizes_are_bounded(tmp_path: Path) -> None:
    async with Served(tmp_path, max_request_bytes=10_000, max_result_bytes=5_000) as served:
        for size in (10_001, 4 << 20):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await served.submit(bytes(size))
            assert caught.value.code() is CODE.RESOURCE_EXHAUSTED
        ticket = await served.submit()
        replica = await served.pulling()
        assert replica.welcome.max_result_bytes == 5_000
        assert await replica.finish(await replica.work(), bytes(6_000))
        item = await served.get(ticket, 30.0)
        assert (item.state, item.result.failure.code) == (bpb.FAILED, CODE.RESOURCE_EXHAUSTED.value[0])


async def test_who_is_full_says_when_to_come_again(tmp_path: Path) -> None:
    async with Served(tmp_path, max_items=5, max_tenant_items=3) as served:
        for tenant, taken, words in (("t", 3, "tenant 't'"), ("u", 2, "5 items")):
            for _ in range(taken):
                await served.submit(tenant=tenant)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await served.submit(tenant=tenant)
            assert caught.value.code() is CODE.RESOURCE_EXHAUSTED
            assert words in caught.value.details()
            assert int(dict(caught.value.trailing_metadata())["retry-after-ms"]) > 0


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
