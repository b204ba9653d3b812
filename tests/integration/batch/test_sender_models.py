"""A sender whose rows name several models: one that is away or full is its own rows' matter."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from serving._proto import records_pb2 as pb
from serving.batch.rows.request import COMPLETIONS, RowAnswer, RowRequest, openai_request
from serving.batch.sending import places as places_module
from serving.batch.sending.make import make_sender
from serving.batch.sending.places import Discovered, Fixed
from serving.batch.sending.sender import Sender
from serving.batch.sending.settings import SenderConfig
from serving.batch.sending.window import WindowConfig
from serving.local.etcd import EtcdCluster
from serving.store import AppKey, EtcdClient, keys
from serving.store.records import encode
from serving.types import ENDPOINT_READY, PROTOCOL_OPENAI_HTTP, ROLE_DIRECT
from tests.support.row_server import RowServer, Said, completion, row_server
from tests.support.waiting import eventually_async


def row(prompt: str, model: str) -> RowRequest:
    return openai_request(COMPLETIONS, {"prompt": prompt, "max_tokens": 1, "model": model})


@contextlib.asynccontextmanager
async def sender_to(server: RowServer, **more: Any) -> AsyncIterator[Sender]:
    config = SenderConfig(window=WindowConfig(first=4), **{"timeout_s": 20, "patience_s": 60, **more})
    async with make_sender(Fixed((server.url,)), config) as sender:
        yield sender


async def all_of(sender: Sender, rows: list[RowRequest]) -> list[RowAnswer]:
    found = {number: answer async for number, answer in sender.send_all(enumerate(rows))}
    return [found[number] for number in range(len(rows))]


async def full_model(_server: RowServer, body: dict[str, Any]) -> Said:
    """Of the model `full`, as a gateway says it; others answer."""
    if body["model"].startswith("full"):
        return Said(429, {"error": {"message": "full", "code": "rate_limit_exceeded"}}, {"retry-after": "30"})
    return completion(body)


async def test_a_model_that_refuses_holds_up_no_other_one() -> None:
    rows = [row(f"p{number}", model) for number in range(100) for model in ("full", "free")]
    async with row_server(full_model) as server, sender_to(server, patience_s=2.0) as sender:
        found = await all_of(sender, rows)
        assert [one.fault for one in found[1::2]] == [None] * 100
        assert {one.fault.code for one in found[::2] if one.fault} == {"unavailable"}
        assert max(sender.limits.values()) >= 4 > min(sender.limits.values()), "each has its own window"


async def test_more_models_than_are_kept_apart_are_answered_too(monkeypatch: Any) -> None:
    monkeypatch.setattr(places_module, "_MOST_LANES", 3)
    async with row_server(full_model) as server, sender_to(server) as sender:
        found = await all_of(sender, [row(f"p{number}", f"m{number % 7}") for number in range(70)])
        assert [one.fault for one in found] == [None] * 70
        assert {body["model"] for body in server.bodies} == {f"m{number}" for number in range(7)}
        assert len(sender.limits) == 4


async def test_a_model_that_has_answered_and_is_away_comes_back() -> None:
    away = True

    async def loses_it(server: RowServer, body: dict[str, Any]) -> Said:
        if body["model"] == "never" or (len(server.bodies) > 1 and away):
            return Said(404, {"error": {"message": "no such model", "code": "model_not_found"}})
        return completion(body)

    async with row_server(loses_it) as server, sender_to(server) as sender:
        unknown = await sender.send(row("p", "never"))
        assert unknown.fault is not None
        assert (unknown.status, unknown.fault.code) == (404, "model_not_found")
        server.bodies.clear()
        assert (await sender.send(row("first", "m"))).fault is None
        sending = asyncio.create_task(all_of(sender, [row(f"p{number}", "m") for number in range(20)]))
        await eventually_async(lambda: sender.stats.refusals > 2 or sending.done(), what="the model is away")
        away = False
        assert [one.fault for one in await sending] == [None] * 20


@pytest.fixture
async def store(etcd: EtcdCluster) -> AsyncIterator[EtcdClient]:
    client = EtcdClient(etcd.config())
    yield client
    await client.close()


APP = AppKey("default", "batches")


class Replica:
    """In discovery or not, wherever it listens."""

    def __init__(self, store: EtcdClient, server: RowServer) -> None:
        self._store = store
        self._record = pb.Endpoint(
            id="it-r1-0",
            namespace=APP.namespace,
            application=APP.name,
            deployment="it",
            role=ROLE_DIRECT,
            protocol=PROTOCOL_OPENAI_HTTP,
            state=ENDPOINT_READY,
            address=server.url.removeprefix("http://"),
            models=[pb.ModelRecord(name="m")],
        )
        self._key = keys.endpoint(APP, ROLE_DIRECT, "it", self._record.id)

    async def come(self) -> None:
        await self._store.put(self._key, encode(self._record))

    async def go(self) -> None:
        await self._store.delete(self._key)


async def test_rows_of_a_model_whose_replicas_have_gone_wait_for_the_next_one(
    etcd: EtcdCluster, store: EtcdClient
) -> None:
    config = SenderConfig(unknown_model_s=0.0, patience_s=120, timeout_s=20)
    async with row_server(full_model) as server:
        replica = Replica(store, server)
        await replica.come()
        async with make_sender(Discovered(etcd.config()), config) as sender:
            assert (await sender.send(row("p", "m"))).fault is None
            await replica.go()
            await eventually_async(lambda: not sender.limits, what="nobody offers the model")
            sending = asyncio.create_task(all_of(sender, [row(f"p{number}", "m") for number in range(20)]))
            await eventually_async(lambda: sender.stats.rows == 21 or sending.done(), what="all rows are there")
            assert sender.stats.faults == 0
            unknown = await sender.send(row("p", "another"))
            assert unknown.fault is not None
            assert unknown.fault.code == "not_found"
            await replica.come()
            assert [one.fault for one in await sending] == [None] * 20


async def test_rows_of_models_that_nobody_offers_hold_up_no_others(etcd: EtcdCluster, store: EtcdClient) -> None:
    config = SenderConfig(unknown_model_s=600, timeout_s=20)
    async with row_server(full_model) as server:
        await Replica(store, server).come()
        sender = make_sender(Discovered(etcd.config()), config)
        await sender.start()
        rows = [row(f"p{number}", "m" if number % 2 else f"unknown{number}") for number in range(40)]
        sending = asyncio.create_task(all_of(sender, rows))
        await eventually_async(lambda: sender.stats.answers == 20, what="the others are answered")
        one = asyncio.create_task(sender.send(row("p", "unknown")))
        await eventually_async(lambda: sender.stats.rows == 41, what="it waits, too")
        one.cancel()
        await asyncio.wait([one])
        await sender.close()
        found = await asyncio.wait_for(sending, 60)
        assert [answer.fault for answer in found[1::2]] == [None] * 20
        assert {answer.fault.code for answer in found[::2] if answer.fault} == {"cancelled"}
        assert (sender.stats.answers, sender.stats.faults) == (20, 20)


async def test_a_row_that_waits_for_its_model_is_answered_when_it_comes(etcd: EtcdCluster, store: EtcdClient) -> None:
    async with row_server(full_model) as server:
        replica = Replica(store, server)
        await replica.go()
        async with make_sender(Discovered(etcd.config()), SenderConfig(unknown_model_s=600)) as sender:
            sending = asyncio.create_task(all_of(sender, [row(f"p{number}", "m") for number in range(300)]))
            await eventually_async(lambda: sender.stats.rows > 256, what="all that wait aside, and one in the line")
            await replica.come()
            assert [answer.fault for answer in await sending] == [None] * 300
