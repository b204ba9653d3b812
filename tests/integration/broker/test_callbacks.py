"""Callbacks: a real broker and journal, real receivers."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2

from serving._proto import broker_pb2 as bpb
from serving._proto.broker_pb2_grpc import BrokerStub
from serving.broker.callbacks.settings import CallbackSettings
from serving.webhooks import verify_webhook
from tests.support.broker_process import LoneBroker
from tests.support.pulling import HandReplica
from tests.support.receiver import Receiver
from tests.support.served_broker import Served, submit
from tests.support.waiting import aeventually, eventually_async

CODE = grpc.StatusCode
LOCAL = {"networks": ("127.0.0.0/8", "::1/128"), "allow_http": True}
QUICK = {**LOCAL, "first_delay_s": 0.05, "max_delay_s": 0.2}
OLD = "whsec_" + base64.b64encode(b"o" * 24).decode()
NEW = "whsec_" + base64.b64encode(b"n" * 32).decode()


def settings(**changes: Any) -> CallbackSettings:
    return CallbackSettings(**{**QUICK, **changes})


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as made:
        yield made


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with Served(tmp_path, callbacks=settings()) as made:
        yield made


async def ended(served: Served, url: str, answer: bytes = b"answer", **fields: Any) -> str:
    """The ticket of an item that a replica has answered."""
    ticket = await served.submit(callback=bpb.Callback(url=url), **fields)
    replica = await served.pulling()
    await replica.finish(await replica.work(), answer)
    await replica.close()
    return ticket


async def callback_is(served: Served, ticket: str, state: str) -> bpb.CallbackStatus:
    async def look() -> bpb.CallbackStatus | None:
        status = (await served.get(ticket)).callback
        return status if bpb.CallbackState.Name(status.state) == f"CALLBACK_{state}" else None

    found = await aeventually(look, what=f"the callback is {state}")
    assert found is not None
    return found


def tensors(**outputs: Any) -> bytes:
    response = service_pb2.ModelInferResponse(model_name="worker", model_version="1")
    for name, (datatype, array) in outputs.items():
        response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        response.raw_output_contents.append(array.tobytes())
    return bytes(response.SerializeToString())


# ---------------------------------------------------------------------------------------------------- what is told


async def test_the_end_is_told_with_its_result(served: Served, receiver: Receiver) -> None:
    answer = tensors(y=("FP32", np.array([[1.5, 2.0]], np.float32)))
    ticket = await ended(served, receiver.url("/a?key=1"), answer, tenant="t", labels={"kind": "x"})
    (one,) = await receiver.told()
    item = await served.get(ticket)
    data = one.data
    assert (data["id"], data["state"], data["deployment"], data["tenant"]) == (item.id, "SUCCEEDED", "worker", "t")
    assert (data["attempts"], data["labels"], data["reason"]) == (1, {"kind": "x"}, "")
    (output,) = data["result"]["infer"]["outputs"]
    assert output == {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.5, 2.0]}
    assert "ticket" not in data
    assert ticket.rpartition(".")[2] not in one.body.decode(), "the secret of the ticket is not told"
    assert data["submitted_at"] <= data["started_at"] <= data["ended_at"]
    assert one.headers["Content-Type"] == "application/json"
    assert "webhook-signature" not in one.headers
    assert "." not in one.id
    status = await callback_is(served, ticket, "DELIVERED")
    assert (status.url, status.tries, status.status) == (f"{receiver.url('/a')}?...", 1, 204)
    assert served.metric("mesh_broker_callback_tries_total", outcome="delivered") == 1
    assert served.metric("mesh_broker_callbacks_due") == 0


async def test_a_large_result_is_to_be_fetched_with_the_ticket(tmp_path: Path, receiver: Receiver) -> None:
    async with Served(tmp_path, callbacks=settings(max_inline_bytes=100), application="ns/app") as served:
        ticket = await ended(served, receiver.url(), b"x" * 101)
        (one,) = await receiver.told()
        assert one.data["result"] is None
        assert one.data["result_bytes"] > 101
        assert one.data["ticket"] == f"ns/app/{ticket}"


@pytest.mark.parametrize(
    "answer",
    [tensors(y=("FP32", np.array([np.nan], np.float32))), b"\xff no message", tensors(y=("INT8", np.zeros(3)))],
)
async def test_what_json_cannot_say_is_to_be_fetched(served: Served, receiver: Receiver, answer: bytes) -> None:
    ticket = await ended(served, receiver.url(), answer)
    (one,) = await receiver.told()
    assert (one.data["result"], one.data["ticket"]) == (None, ticket)


async def test_answers_of_openai_and_failures_are_told(served: Served, receiver: Receiver) -> None:
    results = [
        bpb.Result(http=bpb.HttpAnswer(status=200, content_type="application/json; x=y", body='{"a": "ü"}'.encode())),
        bpb.Result(http=bpb.HttpAnswer(status=429, content_type="text/plain", body=b"later")),
        bpb.Result(failure=bpb.Failure(code=3, message="no")),
        bpb.Result(infers=bpb.InferAnswers(responses=[tensors(i=("INT32", np.array([7], np.int32)))])),
    ]
    replica = await served.pulling(len(results))
    for result in results:
        await served.submit(callback=bpb.Callback(url=receiver.url()))
        work = await replica.work()
        await replica.say(done=bpb.Done(item=work.item, attempt=work.attempt, result=result))
    told = {one.data["id"]: one.data for one in await receiver.told(len(results))}
    found = [told[key] for key in sorted(told, key=lambda name: int(name.rpartition(".")[2]))]
    assert [one["state"] for one in found] == ["SUCCEEDED", "FAILED", "FAILED", "SUCCEEDED"]
    assert found[0]["result"]["http"]["body"] == {"a": "ü"}
    assert found[1]["result"]["http"] == {"status": 429, "content_type": "text/plain", "body": "later"}
    assert found[2]["result"] == {"failure": {"code": "INVALID_ARGUMENT", "message": "no"}}
    assert found[3]["result"]["infers"][0]["outputs"][0]["data"] == [7]


async def test_every_end_is_told_and_only_those_that_are_wanted(served: Served, receiver: Receiver) -> None:
    wanted = bpb.Callback(url=receiver.url("/wanted"))
    only_dead = bpb.Callback(url=receiver.url("/dead"), states=[bpb.DEAD])
    cancelled = [await served.submit(callback=one) for one in (wanted, only_dead)]
    expired = await served.submit(callback=wanted, deadline_s=0.2)
    for ticket in cancelled:
        await served.stub.Cancel(bpb.CancelRequest(ticket=ticket))
    told = await receiver.told(2)
    assert {one.data["state"] for one in told} == {"CANCELLED", "EXPIRED"}
    assert {one.path for one in told} == {"/wanted"}
    assert all(one.data["reason"] and one.data["result"] is None and "ticket" not in one.data for one in told)
    await callback_is(served, cancelled[1], "UNWANTED")
    await callback_is(served, expired, "DELIVERED")


async def test_an_item_that_is_put_back_tells_of_its_next_end_under_another_id(
    served: Served, receiver: Receiver
) -> None:
    ticket = await served.submit(callback=bpb.Callback(url=receiver.url()))
    await served.stub.Cancel(bpb.CancelRequest(ticket=ticket))
    await callback_is(served, ticket, "DELIVERED")
    await served.stub.Retry(bpb.RetryRequest(ticket=ticket))
    await callback_is(served, ticket, "WAITS")
    replica = await served.pulling()
    await replica.finish(await replica.work())
    first, second = await receiver.told(2)
    assert [first.data["state"], second.data["state"]] == ["CANCELLED", "SUCCEEDED"]
    assert first.id != second.id


# ---------------------------------------------------------------------------------------------------- signatures


async def test_it_is_signed_with_all_keys_of_its_secret_also_while_they_change(
    tmp_path: Path, receiver: Receiver
) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "hook").write_text(f"{OLD}\n")
    async with Served(tmp_path / "j", callbacks=settings(secrets=folder)) as served:
        callback = bpb.Callback(url=receiver.url(), secret_name="hook")
        await served.stub.Cancel(bpb.CancelRequest(ticket=await served.submit(callback=callback)))
        (one,) = await receiver.told()
        assert verify_webhook(one.headers, one.body, OLD)["type"] == "item.cancelled"
        (folder / "hook").write_text(f"# from now on\n{NEW}\n{OLD}\n")
        await served.stub.Cancel(bpb.CancelRequest(ticket=await served.submit(callback=callback)))
        two = (await receiver.told(2))[1]
        for secret in (OLD, NEW):
            assert verify_webhook(two.headers, two.body, secret)["data"]["state"] == "CANCELLED"
    kept = await asyncio.to_thread(lambda: [file.read_bytes() for file in (tmp_path / "j").iterdir()])
    assert not any(key.encode() in data for key in (OLD, NEW) for data in kept), "secrets are not in the journal"


@pytest.mark.parametrize(
    ("callback", "code"),
    [
        ({"url": "ftp://127.0.0.1/"}, CODE.INVALID_ARGUMENT),
        ({"url": "http://user:word@127.0.0.1/"}, CODE.INVALID_ARGUMENT),
        ({"url": "http://127.0.0.1\\@example.org/"}, CODE.INVALID_ARGUMENT),
        ({"url": "http://127.0.0.1:70000/"}, CODE.INVALID_ARGUMENT),
        ({"url": "http://2130706433/"}, CODE.INVALID_ARGUMENT),
        ({"url": "http://127.0x1/"}, CODE.INVALID_ARGUMENT),
        ({"url": "http://127.0.0.1/" + "x" * 2048}, CODE.INVALID_ARGUMENT),
        ({"url": "http://10.0.0.1/"}, CODE.PERMISSION_DENIED),
        ({"url": "http://[::ffff:10.0.0.1]/"}, CODE.PERMISSION_DENIED),
        ({"secret_name": "other"}, CODE.NOT_FOUND),
        ({"secret_name": "../hook"}, CODE.INVALID_ARGUMENT),
        ({"secret_name": "bad"}, CODE.FAILED_PRECONDITION),
        ({"states": [bpb.RUNNING]}, CODE.INVALID_ARGUMENT),
        ({"states": [99]}, CODE.INVALID_ARGUMENT),
    ],
)
async def test_what_could_not_be_sent_is_refused_at_once(
    tmp_path: Path, callback: dict[str, Any], code: grpc.StatusCode
) -> None:
    (tmp_path / "bad").write_text("whsec_short")
    async with Served(tmp_path / "j", callbacks=settings(secrets=tmp_path)) as served:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await served.submit(callback=bpb.Callback(**{"url": "http://127.0.0.1/", **callback}))
        assert refused.value.code() is code
        assert (await served.queue()).queued == 0


async def test_a_broker_may_be_told_not_to_call_back(tmp_path: Path) -> None:
    async with Served(tmp_path, callbacks=settings(disabled=True)) as served:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await served.submit(callback=bpb.Callback(url="http://127.0.0.1/"))
        assert refused.value.code() is CODE.UNIMPLEMENTED


# ---------------------------------------------------------------------------------------------------- tries


async def test_it_is_tried_again_under_the_same_id_until_it_is_taken(served: Served, receiver: Receiver) -> None:
    receiver.answer = lambda one: 500 if one.tries < 4 else 200
    ticket = await ended(served, receiver.url())
    status = await callback_is(served, ticket, "DELIVERED")
    assert (status.tries, status.status, status.reason) == (4, 200, "")
    assert len({one.id for one in receiver.received}) == 1
    assert len({one.body for one in receiver.received}) == 1
    assert served.metric("mesh_broker_callback_tries_total", outcome="failed") == 3


async def test_a_receiver_that_is_down_gets_it_when_it_is_up_again(served: Served, receiver: Receiver) -> None:
    await receiver.stop()
    ticket = await ended(served, receiver.url())

    async def tried() -> bool:
        status = (await served.get(ticket)).callback
        return status.tries > 1 and status.reason == "no connection"

    await aeventually(tried, what="two tries")
    assert served.metric("mesh_broker_callbacks_due") == 1
    await receiver.start()
    assert (await receiver.told())[0].data["state"] == "SUCCEEDED"
    await callback_is(served, ticket, "DELIVERED")


async def test_what_is_not_taken_is_on_the_dead_letter_list_and_may_be_sent_again(
    tmp_path: Path, receiver: Receiver
) -> None:
    async with Served(tmp_path, callbacks=settings(max_attempts=3), result_ttl_s=0.5) as served:
        receiver.answer = lambda one: 500 if one.tries <= 3 else 204
        ticket = await ended(served, receiver.url())
        status = await callback_is(served, ticket, "DEAD")
        assert (status.tries, status.status) == (3, 500)
        assert status.reason == "answered with 500; 3 tries were made"
        assert served.metric("mesh_broker_callback_tries_total", outcome="given_up") == 1
        await asyncio.sleep(1.5)  # the result's time is over, the dead letter's is not
        (dead,) = (await served.stub.ListCallbacks(bpb.ListCallbacksRequest())).items
        assert (dead.id, dead.ticket, dead.callback.status) == (ticket.rpartition(".")[0], "", 500)
        again = await served.stub.RetryCallback(bpb.RetryCallbackRequest(ticket=dead.id))
        assert (again.callback.state, again.callback.tries) == (bpb.CALLBACK_DUE, 0)
        assert (await receiver.told(4))[3].data["ticket"] == ticket, "the result is there still"

        async def forgotten() -> bool:
            try:
                await served.get(ticket)
            except grpc.aio.AioRpcError as gone:
                return gone.code() is CODE.NOT_FOUND
            return False

        await aeventually(forgotten, what="the item is forgotten once it was called back")
        assert not (await served.stub.ListCallbacks(bpb.ListCallbacksRequest())).items


async def test_gone_ends_it_at_once(served: Served, receiver: Receiver) -> None:
    receiver.answer = lambda _: 410
    status = await callback_is(served, await ended(served, receiver.url()), "DEAD")
    assert (status.tries, status.reason) == (1, "answered with 410; the receiver wants no more")
    assert len(receiver.received) == 1


async def test_redirects_are_not_followed(tmp_path: Path, receiver: Receiver) -> None:
    receiver.answer = lambda _: 307
    receiver.headers = {"Location": receiver.url("/elsewhere")}
    async with Served(tmp_path, callbacks=settings(max_attempts=2)) as served:
        status = await callback_is(served, await ended(served, receiver.url()), "DEAD")
    assert "redirects are not followed" in status.reason
    assert {one.path for one in receiver.received} == {"/hook"}


async def test_the_receiver_says_when_it_may_be_tried_again(tmp_path: Path, receiver: Receiver) -> None:
    receiver.answer = lambda _: 503
    receiver.headers = {"Retry-After": "3600"}
    async with Served(tmp_path, callbacks=settings()) as served:
        ticket = await ended(served, receiver.url())
        await receiver.told()

        async def waits() -> float:
            status = (await served.get(ticket)).callback
            return float(status.next.seconds - status.due.seconds) if status.tries else 0.0

        assert await aeventually(waits, what="the next try") >= 3599
        receiver.answer = lambda _: 200
        again = await served.stub.RetryCallback(bpb.RetryCallbackRequest(ticket=ticket))
        assert again.callback.state == bpb.CALLBACK_DUE
        await callback_is(served, ticket, "DELIVERED")


async def test_one_whose_next_try_would_be_too_late_is_given_up(tmp_path: Path, receiver: Receiver) -> None:
    receiver.answer = lambda _: 503
    receiver.headers = {"Retry-After": "3600"}
    async with Served(tmp_path, callbacks=settings(max_age_s=60)) as served:
        status = await callback_is(served, await ended(served, receiver.url()), "DEAD")
    assert "more than 60 s after the item's end" in status.reason


async def test_a_receiver_that_does_not_answer_is_tried_again(tmp_path: Path, receiver: Receiver) -> None:
    receiver.held.clear()
    async with Served(tmp_path, callbacks=settings(timeout_s=0.2)) as served:
        ticket = await ended(served, receiver.url())
        await receiver.told(2)
        receiver.held.set()
        status = await callback_is(served, ticket, "DELIVERED")
    assert status.tries >= 2


async def test_a_body_without_end_is_not_read(served: Served) -> None:
    """What comes after the head of an answer counts for nothing."""
    sent = 0

    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                await writer.drain()
                sent += 65536
        except ConnectionError:
            writer.close()

    server = await asyncio.start_server(endless, "127.0.0.1", 0)
    async with server:
        ticket = await ended(served, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        status = await callback_is(served, ticket, "DELIVERED")
        assert status.tries == 1
        assert sent < 64 << 20
        server.close()


async def test_a_slow_receiver_does_not_hold_up_another(tmp_path: Path, receiver: Receiver) -> None:
    async with Receiver() as slow, Served(tmp_path, callbacks=settings(per_host=2, concurrency=4)) as served:
        slow.held.clear()
        for _ in range(20):
            ticket = await served.submit(callback=bpb.Callback(url=slow.url()))
            await served.stub.Cancel(bpb.CancelRequest(ticket=ticket))
        await slow.told(2)
        for _ in range(20):
            ticket = await served.submit(callback=bpb.Callback(url=receiver.url()))
            await served.stub.Cancel(bpb.CancelRequest(ticket=ticket))
        await receiver.told(20)
        assert len(slow.received) == 2, "no more calls at once than one receiver may have"
        slow.held.set()
        await slow.told(20)


async def test_while_too_many_are_due_no_more_are_taken(tmp_path: Path, receiver: Receiver) -> None:
    receiver.answer = lambda _: 500
    async with Served(tmp_path, callbacks=settings(max_due=2, first_delay_s=60, max_delay_s=60)) as served:
        callback = bpb.Callback(url=receiver.url())
        for _ in range(2):
            ticket = await served.submit(callback=callback)
            await served.stub.Cancel(bpb.CancelRequest(ticket=ticket))
        with pytest.raises(grpc.aio.AioRpcError) as full:
            await served.submit(callback=callback)
        assert full.value.code() is CODE.RESOURCE_EXHAUSTED
        assert dict(full.value.trailing_metadata() or ())["retry-after-ms"]
        await served.submit()
        listed = await served.stub.ListCallbacks(bpb.ListCallbacksRequest(state=bpb.CALLBACK_DUE, limit=1))
        assert (len(listed.items), bool(listed.next)) == (1, True)


# ---------------------------------------------------------------------------------------------------- where it may go


async def test_by_default_nothing_but_https_to_public_addresses(tmp_path: Path) -> None:
    async with Served(tmp_path, callbacks=CallbackSettings()) as served:
        for url in ("http://example.org/", "https://127.0.0.1/", "https://169.254.169.254/latest", "https://[::1]/"):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await served.submit(callback=bpb.Callback(url=url))
            assert refused.value.code() is CODE.PERMISSION_DENIED


async def test_a_name_is_judged_by_the_address_that_is_connected_to(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that meant a public address when it was looked at."""
    real = socket.getaddrinfo
    asked: list[str] = []

    def rebound(host: Any, *rest: Any, **more: Any) -> Any:
        asked.append(host)
        return real("127.0.0.1" if host == "hooks.example.org" else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", rebound)
    for host in ("hooks.example.org", "localhost"):
        changes = {"networks": (), "max_attempts": 2}
        async with Served(tmp_path / host, callbacks=settings(**changes)) as served:
            status = await callback_is(served, await ended(served, receiver.url(host=host)), "DEAD")
            assert status.reason.startswith("its address is not public"), status.reason
            assert status.status == 0
    assert "hooks.example.org" in asked
    assert not receiver.received


async def test_a_host_that_is_not_allowed_any_more_gets_nothing(tmp_path: Path, receiver: Receiver) -> None:
    await receiver.stop()
    async with Served(tmp_path, callbacks=settings()) as served:
        ticket = await ended(served, receiver.url())
        await callback_is(served, ticket, "DUE")
    await receiver.start()
    strict = settings(hosts=("*.example.org",), max_attempts=1)
    async with Served(tmp_path, callbacks=strict) as served:
        status = await callback_is(served, ticket, "DEAD")
        assert "not among broker.callbacks.hosts" in status.reason
    assert not receiver.received


# ---------------------------------------------------------------------------------------------------- kills


async def test_what_is_due_survives_the_broker_and_its_item_the_result_s_time(
    tmp_path: Path, receiver: Receiver
) -> None:
    """Killed again and again between ends and deliveries; the receiver is down for a while."""
    await receiver.stop()
    arguments = {"result_ttl_s": 0.2, "lease_s": 30}
    tickets: list[str] = []
    for _ in range(3):
        with LoneBroker(tmp_path, callbacks=True, **arguments) as broker:
            address = await asyncio.to_thread(lambda broker=broker: broker.address)
            async with grpc.aio.insecure_channel(address) as channel:
                stub: Any = BrokerStub(channel)  # type: ignore[no-untyped-call]
                replica = await HandReplica(channel).connect(more=10)
                for _ in range(10):
                    reply = await stub.Submit(submit(callback=bpb.Callback(url=receiver.url())))
                    tickets.append(reply.ticket)
                    assert await replica.finish(await replica.work(), reply.ticket.encode())
                await asyncio.to_thread(broker.kill)
    await receiver.start()
    with LoneBroker(tmp_path, callbacks=True, **arguments) as broker:
        await eventually_async(lambda: len({one.id for one in receiver.received}) == len(tickets), what="all of them")
        assert {one.data["id"] for one in receiver.received} == {ticket.rpartition(".")[0] for ticket in tickets}
        assert broker.port


async def test_one_that_was_on_its_way_when_the_broker_was_killed_comes_again(
    tmp_path: Path, receiver: Receiver
) -> None:
    receiver.held.clear()
    with LoneBroker(tmp_path, callbacks=True) as broker:
        address = await asyncio.to_thread(lambda: broker.address)
        async with grpc.aio.insecure_channel(address) as channel:
            stub: Any = BrokerStub(channel)  # type: ignore[no-untyped-call]
            ticket = (await stub.Submit(submit(callback=bpb.Callback(url=receiver.url())))).ticket
            await stub.Cancel(bpb.CancelRequest(ticket=ticket))
        await receiver.told()
        await asyncio.to_thread(broker.kill)
    receiver.held.set()
    with LoneBroker(tmp_path, callbacks=True) as broker:
        address = await asyncio.to_thread(lambda: broker.address)
        first, second = await receiver.told(2)
        assert first.id == second.id
        async with grpc.aio.insecure_channel(address) as channel:
            stub = BrokerStub(channel)  # type: ignore[no-untyped-call]

            async def delivered() -> bool:
                item = await stub.Get(bpb.GetRequest(ticket=ticket))
                return bool(item.callback.state == bpb.CALLBACK_DELIVERED)

            await aeventually(delivered, what="it is delivered")


async def test_a_drain_lets_what_is_sent_arrive_and_leaves_the_rest_to_the_next(
    tmp_path: Path, receiver: Receiver
) -> None:
    receiver.answer = lambda one: 200 if one.path == "/now" else 500
    async with Served(tmp_path, callbacks=settings()) as first:
        later = await ended(first, receiver.url("/later"))
        receiver.held.clear()
        now = await ended(first, receiver.url("/now"))
        await eventually_async(lambda: any(one.path == "/now" for one in receiver.received), what="it is sent")
        first.broker.refuse()
        idle = asyncio.create_task(first.broker.wait_idle())
        receiver.held.set()
        await asyncio.wait_for(idle, 30)
    receiver.answer = lambda _: 200
    async with Served(tmp_path, callbacks=settings()) as second:
        await callback_is(second, later, "DELIVERED")
        await callback_is(second, now, "DELIVERED")
    assert sum(one.path == "/now" for one in receiver.received) == 1
