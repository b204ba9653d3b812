"""Callbacks of brokers that are killed, drained, or do not trust a receiver: processes, and real receivers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from serving._proto import broker_pb2 as bpb
from serving._proto.broker_pb2_grpc import BrokerStub
from tests.support.broker_process import LoneBroker
from tests.support.callbacks import callback_is, ended, settings
from tests.support.certificates import Authority
from tests.support.pulling import HandReplica
from tests.support.receiver import Receiver
from tests.support.served_broker import Served, submit
from tests.support.waiting import aeventually, eventually_async


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


async def test_only_certificates_that_are_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = await asyncio.to_thread(Authority.make, tmp_path / "ca")
    async with Receiver(tls=authority.issue("receiver")) as receiver:
        with LoneBroker(tmp_path / "j", callbacks=True) as broker:
            address = await asyncio.to_thread(lambda: broker.address)
            async with grpc.aio.insecure_channel(address) as channel:
                stub: Any = BrokerStub(channel)  # type: ignore[no-untyped-call]
                ticket = (await stub.Submit(submit(callback=bpb.Callback(url=receiver.url())))).ticket
                await stub.Cancel(bpb.CancelRequest(ticket=ticket))

                async def refused() -> bool:
                    item = await stub.Get(bpb.GetRequest(ticket=ticket))
                    return "certificate is not trusted" in item.callback.reason

                await aeventually(refused, what="it is not trusted")
        assert not receiver.received
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca" / "ca.pem"))
        with LoneBroker(tmp_path / "j", callbacks=True):
            (one,) = await receiver.told()
            assert one.data["state"] == "CANCELLED"
