"""Submits and Gets over one stream, with a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import grpc.aio
import pytest

from serving._proto import broker_pb2 as bpb
from serving._proto.broker_pb2_grpc import BrokerStub
from serving.broker import exchange as stream
from serving.broker.items import Item
from serving.errors import DeadlineExceeded, FailedPrecondition
from serving.sdk import exchange as sdk
from serving.sdk.exchange import Exchange, Refused
from tests.integration.broker.scripted_broker import ScriptedBroker
from tests.support.served_broker import Served, submit
from tests.support.waiting import aeventually, eventually_async

CODE = grpc.StatusCode


class Hand:
    """A client that a test holds by the hand."""

    def __init__(self, served: Served) -> None:
        self.call = served.stub.Exchange()
        self._came: list[bpb.ExchangeReply] = []

    async def say(self, *messages: bpb.ExchangeRequest) -> None:
        first, *others = messages
        first.more.extend(others)
        await self.call.write(first)

    async def answer(self) -> bpb.ExchangeReply:
        if not self._came:
            first = await asyncio.wait_for(self.call.read(), 30)
            assert isinstance(first, bpb.ExchangeReply), "the stream has ended"
            self._came += (first, *first.more)
        return self._came.pop(0)

    async def ended(self) -> tuple[grpc.StatusCode, str]:
        return await asyncio.wait_for(self.call.code(), 30), await self.call.details()


def wants(number: int, ticket: str, wait_s: float = 0.0) -> bpb.ExchangeRequest:
    return bpb.ExchangeRequest(id=number, get=bpb.GetRequest(ticket=ticket, wait_s=wait_s))


def asks(number: int, **fields: Any) -> bpb.ExchangeRequest:
    return bpb.ExchangeRequest(id=number, submit=submit(**fields))


def waited_for(served: Served) -> int:
    """By how many Gets."""
    (shard,) = served.broker.home.shards.values()
    return sum(map(len, shard.watchers._end.values()))


async def test_each_is_answered_when_its_answer_is_known(served: Served) -> None:
    hand = Hand(served)
    await hand.say(asks(1, body=b"a"), asks(2, deployment="none"), asks(3, body=b"b"))
    answers = {(one := await hand.answer()).id: one for _ in range(3)}
    assert answers[2].refused.code == CODE.NOT_FOUND.value[0]
    assert "takes no requests for deployment" in answers[2].refused.message
    tickets = [answers[number].submitted.ticket for number in (1, 3)]
    await hand.say(wants(1, tickets[0], 60), wants(3, tickets[1], 60), wants(4, tickets[0]), wants(5, "x.1.s"))
    now = {(one := await hand.answer()).id: one for _ in range(2)}
    assert now[4].item.state == bpb.QUEUED
    assert now[5].refused.code == CODE.INVALID_ARGUMENT.value[0]
    replica = await served.pulling(2)
    first, second = await replica.work(), await replica.work()
    assert await replica.finish(second, b"later")
    one = await hand.answer()
    assert (one.id, one.item.state, one.item.result.infer, one.item.ticket) == (3, bpb.SUCCEEDED, b"later", tickets[1])
    assert await replica.finish(first, b"first")
    assert (await hand.answer()).item.result.infer == b"first"
    assert served.metric("mesh_broker_calls_total", method="Submit", code="OK") == 2
    assert served.metric("mesh_broker_calls_total", method="Submit", code="NOT_FOUND") == 1
    assert served.metric("mesh_broker_calls_total", method="Get", code="OK") == 3


async def test_one_that_must_be_looked_for_holds_up_no_other(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its key may be in a journal that was adopted, which may be slow or broken."""
    known, broken = served.broker._service._known, asyncio.Event()

    async def looked(journals: Sequence[str], items: Sequence[Item]) -> dict[tuple[str, str], str]:
        if items:
            await broken.wait()
            raise OSError("the disk has gone")
        return await known(journals, items)

    monkeypatch.setattr(served.broker._service, "_known", looked)
    hand = Hand(served)
    await hand.say(asks(1, idempotency_key="k"), asks(2), asks(3, idempotency_key="new", new_key=True))
    assert {(one := await hand.answer()).id: one.HasField("submitted") for _ in range(2)} == {2: True, 3: True}
    broken.set()
    last = await hand.answer()
    assert (last.id, last.refused.code) == (1, CODE.INTERNAL.value[0])


async def test_who_says_no_more_hears_the_rest(served: Served) -> None:
    hand = Hand(served)
    await hand.say(asks(1))
    ticket = (await hand.answer()).submitted.ticket
    await hand.say(wants(2, ticket, 60))
    await hand.call.done_writing()
    await eventually_async(lambda: waited_for(served) == 1, what="it is asked")
    replica = await served.pulling()
    await replica.finish(await replica.work())
    assert (await hand.answer()).item.state == bpb.SUCCEEDED
    assert (await hand.ended())[0] is CODE.OK


async def test_what_is_withdrawn_is_not_waited_for(served: Served) -> None:
    hand = Hand(served)
    await hand.say(wants(1, await served.submit(), 60), wants(2, await served.submit(), 60))
    await eventually_async(lambda: waited_for(served) == 2, what="they are asked")
    await hand.say(*(bpb.ExchangeRequest(id=number, withdraw=bpb.Withdraw()) for number in (1, 77)))
    await eventually_async(lambda: waited_for(served) == 1, what="one is not any more")
    await eventually_async(lambda: served.broker.in_flight == 1, what="nor answered")
    hand.call.cancel()
    await eventually_async(lambda: waited_for(served) == 0, what="who goes waits for nothing")
    await eventually_async(lambda: served.broker.in_flight == 0, what="nothing is answered any more")


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ([asks(1), asks(1)], "id: 1 stands for what is not answered yet"),
        ([bpb.ExchangeRequest(id=7)], "message 7 of an Exchange is none of"),
        ([asks(number) for number in range(stream.MOST_ASKED + 1)], "more: 4096 are too many"),
    ],
)
async def test_what_cannot_be_understood_ends_the_stream(
    served: Served, said: list[bpb.ExchangeRequest], text: str
) -> None:
    hand = Hand(served)
    await hand.say(wants(1000, await served.submit(), 60))
    await hand.say(*said)
    code, details = await hand.ended()
    assert (code, text in details) == (CODE.INVALID_ARGUMENT, True), details
    await eventually_async(lambda: waited_for(served) == 0, timeout_s=30, what="what it had asked is not waited for")


async def test_no_more_is_read_than_is_answered(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MOST_ASKED", 2)
    ticket, hand = await served.submit(), Hand(served)
    await hand.say(wants(1, ticket, 60))
    await hand.say(wants(2, ticket, 60))
    await hand.say(asks(3))
    await eventually_async(lambda: waited_for(served) == 2, what="two are asked")
    assert (await served.queue()).queued == 1, "the third one is not read"
    replica = await served.pulling()
    await replica.finish(await replica.work())
    assert {(await hand.answer()).id for _ in range(3)} == {1, 2, 3}


async def test_a_broker_that_leaves_answers_first(served: Served) -> None:
    """Not with the words that say that nothing was begun: what it had read may be kept."""
    ticket, hand = await served.submit(), Hand(served)
    await hand.say(wants(1, ticket, 60))
    await eventually_async(lambda: waited_for(served) == 1, what="it is asked")
    served.broker.refuse()
    answer = await hand.answer()
    assert (answer.id, answer.refused.code) == (1, CODE.UNAVAILABLE.value[0])
    code, details = await hand.ended()
    assert code is CODE.UNAVAILABLE
    assert "takes no new requests" not in details
    assert "takes no new requests" in (await Hand(served).ended())[1], "a stream that it has not begun to read"


# ---------------------------------------------------------------------------------------------------- the client's side


async def test_many_at_once(served: Served) -> None:
    made = Exchange(served.stub)

    async def one(number: int) -> bytes:
        ticket = (await made.call("Submit", submit(str(number).encode()), 60)).ticket
        item = await made.call("Get", bpb.GetRequest(ticket=ticket, wait_s=60), 90)
        return bytes(item.result.infer)

    asking = [asyncio.create_task(one(number)) for number in range(200)]
    replica = await served.pulling(200)
    for _ in asking:
        work = await replica.work()
        await replica.done(work, b"!" + work.request.infer)
    assert await asyncio.gather(*asking) == [f"!{number}".encode() for number in range(200)]
    await made.close()


async def test_large_results_and_requests_come_by_calls(served: Served) -> None:
    made = Exchange(served.stub)
    body = bytes(sdk._LARGE_BYTES + 1)
    ticket = (await made.call("Submit", submit(body), 60)).ticket
    assert made._running is None, "no stream was opened for it"
    replica = await served.pulling()
    await replica.finish(await replica.work(), body)
    item = await made.call("Get", bpb.GetRequest(ticket=ticket, wait_s=60), 90)
    assert item.result.infer == body
    assert served.metric("mesh_broker_calls_total", method="Get", code="OK") == 2, "once over the stream, once without"
    await made.close()


async def test_a_get_waits_no_longer_than_its_caller(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is answered as it is then, as a call's is: whoever asks must not take a healthy broker for one that hangs."""
    monkeypatch.setattr(sdk, "_ANSWER_S", 59.5)  # for machines that stand still
    made = Exchange(served.stub)
    question = bpb.GetRequest(ticket=await served.submit(), wait_s=60)
    assert (await made.call("Get", question, 60)).state == bpb.QUEUED
    assert question.wait_s == 60, "whoever asked asks another broker with it"
    with pytest.raises(Refused, match="wait_s"):
        await made.call("Get", bpb.GetRequest(ticket=question.ticket, wait_s=-1), 60)
    await made.close()


async def test_refusals_late_answers_and_callers_that_leave(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Exchange(served.stub)
    with pytest.raises(Refused, match="none") as refused:
        await made.call("Submit", submit(deployment="none"), 60)
    assert refused.value.refusal.code == CODE.NOT_FOUND.value[0]
    question = bpb.GetRequest(ticket=await served.submit(), wait_s=60)
    monkeypatch.setattr(sdk, "_ANSWER_S", -60.0)  # as of a broker that does not answer when it should
    with pytest.raises(DeadlineExceeded, match=r"Get was not answered within 0\.2 s"):
        await made.call("Get", question, 0.2)
    await eventually_async(lambda: waited_for(served) == 0, timeout_s=30, what="the late one is withdrawn")
    waiting = asyncio.create_task(made.call("Get", question, 90))
    await eventually_async(lambda: waited_for(served) == 1, what="the next one waits")
    waiting.cancel()
    await eventually_async(lambda: waited_for(served) == 0, timeout_s=30, what="its caller has left")
    await made.close()


async def test_a_stream_that_ends_is_opened_again(served: Served) -> None:
    made = Exchange(served.stub)
    question = bpb.GetRequest(ticket=await served.submit(), wait_s=60)
    waiting = [asyncio.create_task(made.call("Get", question, 90)) for _ in range(3)]
    await eventually_async(lambda: waited_for(served) == 3, what="they are asked")
    served.broker.refuse()
    for answer in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(answer, Refused), answer
        assert answer.refusal.code == CODE.UNAVAILABLE.value[0]

    async def refused() -> bool:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await made.call("Get", question, 30)
        return "takes no new requests" in (error.value.details() or "")

    await aeventually(refused, what="the old stream has ended")
    served.broker._service.refusing.clear()
    assert (await made.call("Get", bpb.GetRequest(ticket=question.ticket), 30)).state == bpb.QUEUED
    await made.close()
    with pytest.raises(FailedPrecondition, match="is closed"):
        await made.call("Submit", submit(), 30)


async def test_a_broker_without_streams_is_asked_by_calls(broker: Callable[..., ScriptedBroker]) -> None:
    scripted = await broker("a", "j").start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{scripted.port}") as channel:
        made = Exchange(BrokerStub(channel))  # type: ignore[no-untyped-call]

        async def ask() -> bpb.SubmitReply:
            while True:
                try:
                    return await made.call("Submit", submit(), 30)
                except grpc.aio.AioRpcError as error:  # grpc may say that the stream broke off, not why
                    assert error.code() is CODE.UNAVAILABLE  # noqa: PT017

        replies = await asyncio.gather(*(ask() for _ in range(5)))
        assert [reply.ticket for reply in replies] == ["j.1.secret"] * 5
        assert len(scripted.submitted) == 5
        assert (await made.call("Get", bpb.GetRequest(ticket="j.1.secret"), 30)).id == "j.1"


async def test_what_is_above_the_bound_is_asked_by_calls(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdk, "_MOST_ASKED", 2)
    made = Exchange(served.stub)
    question = bpb.GetRequest(ticket=await served.submit(), wait_s=60)
    waiting = [asyncio.create_task(made.call("Get", question, 90)) for _ in range(4)]
    await eventually_async(lambda: waited_for(served) == 4, what="they are asked")
    assert len(made._asked) == 2
    replica = await served.pulling()
    await replica.finish(await replica.work())
    assert [item.state for item in await asyncio.gather(*waiting)] == [bpb.SUCCEEDED] * 4
    await made.close()
