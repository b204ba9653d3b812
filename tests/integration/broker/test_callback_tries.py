"""Callbacks that are not taken at once: a real broker and journal, receivers that are down, slow or say no."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from serving._proto import broker_pb2 as bpb
from tests.support.callbacks import callback_is, ended, settings
from tests.support.receiver import Receiver
from tests.support.served_broker import Served
from tests.support.waiting import aeventually, eventually_async

CODE = grpc.StatusCode


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with Served(tmp_path, callbacks=settings()) as made:
        yield made


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
    async with (
        Receiver() as slow,
        Served(tmp_path, callbacks=settings(per_host=2, concurrency=4, timeout_s=120.0)) as served,
    ):
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
            ticket = await served.submit(callback=callback, idempotency_key="known")
            await served.stub.Cancel(bpb.CancelRequest(ticket=await served.submit(callback=callback)))
        with pytest.raises(grpc.aio.AioRpcError) as full:
            await served.submit(callback=callback)
        assert await served.submit(callback=callback, idempotency_key="known") == ticket
        assert full.value.code() is CODE.RESOURCE_EXHAUSTED
        assert dict(full.value.trailing_metadata() or ())["retry-after-ms"]
        await served.submit()
        listed = await served.stub.ListCallbacks(bpb.ListCallbacksRequest(state=bpb.CALLBACK_DUE, limit=1))
        assert (len(listed.items), bool(listed.next)) == (1, True)


async def test_a_tenant_whose_callbacks_are_due_does_not_keep_others_from_theirs(
    tmp_path: Path, receiver: Receiver
) -> None:
    receiver.answer = lambda _: 500
    usual = settings(max_tenant_due=1, first_delay_s=60, max_delay_s=60)
    async with Served(tmp_path, callbacks=usual) as served:
        callback = bpb.Callback(url=receiver.url())
        ticket = await served.submit(callback=callback, tenant="t")
        await served.stub.Cancel(bpb.CancelRequest(ticket=ticket))
        await receiver.told(1)
        with pytest.raises(grpc.aio.AioRpcError, match="1 callbacks of tenant 't' are due") as full:
            await served.submit(callback=callback, tenant="t")
        assert full.value.code() is CODE.RESOURCE_EXHAUSTED
        await served.submit(callback=callback, tenant="u")
        await served.submit(tenant="t")


async def test_a_tenant_with_many_receivers_holds_no_more_than_its_places(tmp_path: Path, receiver: Receiver) -> None:
    usual = settings(concurrency=3, per_host=2, per_tenant=2, timeout_s=120.0)
    async with Receiver() as slow, Receiver() as slow_too, Served(tmp_path, callbacks=usual) as served:
        for held in (slow, slow_too):
            held.held.clear()
        for _ in range(5):
            for held in (slow, slow_too):
                ticket = await served.submit(callback=bpb.Callback(url=held.url()), tenant="t")
                await served.stub.Cancel(bpb.CancelRequest(ticket=ticket))
        await eventually_async(lambda: len(slow.received) + len(slow_too.received) == 2, what="all places of a tenant")
        ticket = await served.submit(callback=bpb.Callback(url=receiver.url()), tenant="u")
        await served.stub.Cancel(bpb.CancelRequest(ticket=ticket))
        await receiver.told(1)
        assert len(slow.received) + len(slow_too.received) == 2
        for held in (slow, slow_too):
            held.held.set()
        await slow.told(5)
        await slow_too.told(5)


@pytest.mark.parametrize("said", [b"", b"no HTTP\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000])
async def test_what_is_no_answer_is_tried_again(tmp_path: Path, said: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, Served(tmp_path, callbacks=settings(max_attempts=2)) as served:
        ticket = await ended(served, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        status = await callback_is(served, ticket, "DEAD")
        assert (status.tries, status.status) == (2, 0)
        assert re.match("no answer of HTTP|the connection ended before an answer", status.reason), status.reason
        assert "127.0.0.1" not in status.reason
