"""Runners at a real etcd: which batches they take, keep, lose and give back. What a job does is said by the test."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from serving._proto import batch_pb2 as pb
from serving.batch.orders.batch import STATUS, Batch
from serving.batch.orders.book import OrderBook
from serving.batch.orders.claims import claim, read_batch
from serving.batch.orders.view import word_of
from serving.batch.runner.instruments import RunnerInstruments
from serving.batch.runner.job import Checked, Counts, Halt, Published
from serving.batch.runner.taking import Identity, Runner
from serving.errors import NotFound, Unavailable
from serving.gateway.catalog import ModelKey
from serving.local.etcd import EtcdCluster
from serving.store import EtcdClient, keys
from serving.store.lease import Lease
from serving.store.records import encode
from tests.support.batches import order_of
from tests.support.waiting import aeventually

pytestmark = pytest.mark.timeout(600)


@dataclass
class Script:
    """What the jobs of a runner do: they run until `go` or until they are stopped."""

    go: threading.Event = field(default_factory=threading.Event)
    fail: str = ""
    done: int = 4  # lines, of 10, when it is stopped
    models: dict[str, ModelKey] | None = field(default_factory=dict)
    began: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    published: list[tuple[str, Halt | None]] = field(default_factory=list)


class ScriptedJob:
    def __init__(self, order: pb.BatchOrder, script: Script) -> None:
        self._id = order.id
        self._script = script

    def check(self) -> Checked:
        return Checked(10, ("m",))

    def run(self, models: dict[str, ModelKey], tell: Callable[[Counts], None], stop: threading.Event) -> None:  # noqa: ARG002
        self._script.began.append(self._id)
        if self._script.fail:
            raise Unavailable(self._script.fail)
        tell(Counts(10, self._script.done, 0, 40, 20, 0))
        while not self._script.go.wait(0.02):
            if stop.is_set():
                self._script.stopped.append(self._id)
                return
        tell(Counts(10, 10, 0, 100, 50, 0))

    def publish(self, halt: Halt | None) -> Published:
        self._script.published.append((self._id, halt))
        return Published(Counts(10, self._script.done if halt else 10, 0))

    def unpublish(self, published: Published) -> None:
        """It made no files."""

    def discard(self) -> None:
        """It kept nothing."""


class Taking:
    """Runners of a namespace of their own."""

    def __init__(self, store: EtcdClient, stack: AsyncExitStack) -> None:
        self.store = store
        self.namespace = f"n{secrets.token_hex(4)}"
        self.book = OrderBook(store, max_unfinished=99)
        self._stack = stack

    async def runner(self, name: str, script: Script, *, concurrency: int = 1) -> Runner:
        async def find(order: pb.BatchOrder, names: tuple[str, ...]) -> dict[str, ModelKey]:  # noqa: ARG001
            if script.models is None:
                raise NotFound("the model `m` does not exist")
            return script.models

        made = Runner(
            self.store,
            Identity(name, "east", frozenset({self.namespace}), concurrency, lease_ttl_s=30),
            lambda order: ScriptedJob(order, script),
            find,
            RunnerInstruments(CollectorRegistry()),
        )
        self._stack.push_async_callback(made.close)
        await made.start()
        return made

    async def order(self, **fields: Any) -> Batch:
        order = order_of(f"batch_{secrets.token_hex(8)}", created=time.time(), namespace=self.namespace, **fields)
        return (await self.book.create(order, time.time()))[0]

    async def now(self, batch: Batch) -> Batch:
        return await read_batch(self.store, batch.namespace, batch.id)

    async def becomes(self, batch: Batch, word: str) -> Batch:
        async def look() -> Batch | None:
            now = await self.now(batch)
            return now if word_of(now, time.time()) == word else None

        found = await aeventually(look, timeout_s=300, what=f"{batch.id} is {word}")
        assert found is not None
        return found


@pytest.fixture
async def taking(store: EtcdClient) -> AsyncIterator[Taking]:
    async with AsyncExitStack() as stack:
        yield Taking(store, stack)


async def begun(taking: Taking, batch: Batch) -> Batch:
    """With the counts that its job has told."""

    async def look() -> Batch | None:
        now = await taking.now(batch)
        return now if now.status is not None and now.status.completed else None

    found = await aeventually(look, timeout_s=300, what="counts are told")
    assert found is not None
    return found


async def test_a_batch_runs_to_its_end(taking: Taking) -> None:
    script = Script()
    batch = await taking.order()
    runner = await taking.runner("r1", script)
    now = await begun(taking, batch)
    assert now.status is not None
    assert now.claim is not None
    assert (now.claim.runner, now.claim.cluster) == ("r1", "east")
    assert (now.status.total, now.status.completed, now.status.prompt_tokens) == (10, 4, 40)
    assert runner.in_flight == 1
    script.go.set()
    ended = await taking.becomes(batch, "completed")
    assert ended.claim is None
    assert ended.status is not None
    assert ended.status.completed == 10
    await runner.wait_idle()


async def test_a_runner_that_was_started_again_goes_on_at_once(taking: Taking, etcd: EtcdCluster) -> None:
    batch = await taking.order()
    lease = Lease(etcd.config(), ttl_s=120)  # of its former process, which was killed
    await lease.start()
    await claim(taking.store, batch, runner="r1", cluster="east", lease=lease.id, now=time.time())
    other, script = Script(), Script()
    await taking.runner("r2", other)
    await taking.runner("r1", script)
    now = await begun(taking, batch)
    assert now.claim is not None
    assert (now.claim.runner, now.claim.epoch, other.began) == ("r1", 2, [])
    await lease.revoke()


async def test_a_cancelled_batch_is_published_as_it_is(taking: Taking) -> None:
    script = Script()
    batch = await taking.order()
    await taking.runner("r1", script)
    await begun(taking, batch)
    await taking.book.cancel(batch.namespace, batch.id, time.time())
    ended = await taking.becomes(batch, "cancelled")
    assert (script.stopped, script.published) == ([batch.id], [(batch.id, Halt.CANCELLED)])
    assert ended.status is not None
    assert ended.status.completed == 4


async def test_windows_that_end_on_the_way(taking: Taking) -> None:
    """What is done by then is completed, where that is all of it."""
    async with AsyncExitStack() as stack:
        halves, whole = taking, Taking(taking.store, stack)
        script = Script(done=10)
        await halves.runner("r1", Script())
        await whole.runner("r2", script)
        short, done = await halves.order(window_s=40), await whole.order(window_s=40)  # half a minute to be taken
        ended = await halves.becomes(short, "expired")
        assert ended.status is not None
        assert ended.status.completed == 4
        await whole.becomes(done, "completed")
        assert script.published == [(done.id, Halt.EXPIRED)]


async def test_a_runner_that_leaves_gives_its_batch_back(taking: Taking) -> None:
    first, second = Script(), Script()
    batch = await taking.order()
    runner = await taking.runner("r1", first)
    await begun(taking, batch)
    runner.refuse()
    await runner.wait_idle()
    assert (first.stopped, first.published, (await taking.now(batch)).claim) == ([batch.id], [], None)
    second.go.set()
    await taking.runner("r2", second)
    ended = await taking.becomes(batch, "completed")
    assert ended.status is not None
    assert ended.status.epoch == 2


async def test_who_has_lost_a_batch_stops_and_publishes_nothing(taking: Taking) -> None:
    script = Script()
    batch = await taking.order()
    runner = await taking.runner("r1", script)
    now = await begun(taking, batch)
    assert now.status is not None
    taken = pb.BatchStatus()
    taken.CopyFrom(now.status)
    taken.epoch += 1
    mine = pb.BatchClaim(runner="r9", cluster="west", epoch=taken.epoch)
    await taking.store.put(keys.batch(batch.namespace, batch.id, STATUS), encode(taken))
    await taking.store.put(keys.batch(batch.namespace, batch.id, "claim"), encode(mine))
    await asyncio.wait_for(runner.wait_idle(), 300)
    assert (script.stopped, script.published) == ([batch.id], [])
    assert (await taking.now(batch)).claim == mine


async def test_a_job_that_fails_is_left_to_others_for_a_while(taking: Taking) -> None:
    broken, whole = Script(fail="the disk is away"), Script()
    whole.go.set()
    batch = await taking.order()
    await taking.runner("r1", broken)
    await aeventually(lambda: asyncio.sleep(0, broken.began), timeout_s=300, what="it was tried")
    await taking.runner("r2", whole)
    await taking.becomes(batch, "completed")
    assert whole.published == [(batch.id, None)]


async def test_a_model_that_nobody_has_refuses_a_new_batch_and_not_one_under_way(taking: Taking) -> None:
    first, second = Script(), Script(models=None)
    batch = await taking.order()
    runner = await taking.runner("r1", first)
    await begun(taking, batch)
    runner.refuse()
    await runner.wait_idle()
    new = await taking.order()
    await taking.runner("r2", second, concurrency=2)
    refused = await taking.becomes(new, "failed")
    assert refused.status is not None
    assert [one.code for one in refused.status.errors] == ["model_not_found"]
    now = await taking.now(batch)
    assert now.status is not None
    assert (word_of(now, time.time()), now.status.completed) == ("in_progress", 4)
    second.models = {}
    second.go.set()
    await taking.becomes(batch, "completed")
