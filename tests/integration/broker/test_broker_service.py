"""A broker's service, with real clients."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest
from prometheus_client import generate_latest

from serving._proto import broker_pb2 as bpb
from serving.broker import service
from tests.support.served_broker import Served, submit
from tests.support.waiting import eventually_async

CODE = grpc.StatusCode


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


async def test_a_key_that_is_said_to_be_new_and_is_not(served: Served) -> None:
    """The journal refuses it alone: those of the same commit are taken."""
    first = await served.stub.Submit(submit(idempotency_key="k", new_key=True))
    assert not first.repeated
    wanted = [submit(idempotency_key=key, new_key=True) for key in ("a", "k", "b")]
    outcomes = (await served.stub.SubmitMany(bpb.SubmitManyRequest(requests=wanted))).outcomes
    assert [one.reply.repeated for one in outcomes] == [False, True, False]
    assert outcomes[1].reply.ticket == first.ticket
    again = await served.stub.Submit(submit(idempotency_key="a"))
    assert (again.ticket, again.repeated) == (outcomes[0].reply.ticket, True)
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
