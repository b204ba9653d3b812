"""Runners at a real etcd, whose jobs do what a test says."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry

from serving._proto import batch_pb2 as pb
from serving.batch.orders.batch import Batch
from serving.batch.orders.book import OrderBook
from serving.batch.orders.claims import read_batch
from serving.batch.orders.view import word_of
from serving.batch.runner.attempts import ModelAway
from serving.batch.runner.instruments import RunnerInstruments
from serving.batch.runner.job import Checked, Counts, Halt, Published
from serving.batch.runner.taking import Identity, Runner
from serving.batch.store.files import new_file_id
from serving.errors import NotFound, Unavailable
from serving.gateway.catalog import ModelKey
from serving.store import EtcdClient
from tests.support.batches import order_of
from tests.support.waiting import aeventually


@dataclass
class Script:
    """What the jobs of a runner do: they run until `go` or until they are stopped."""

    go: threading.Event = field(default_factory=threading.Event)
    fail: str = ""  # why they break as soon as they begin
    stumble: str = ""  # why they break after one line more
    publish_fails: bool = False  # with what no mesh raises
    deaf: bool = False  # they do not stop when they are asked
    done: int = 4  # lines, of 10, when it is stopped
    models: dict[str, ModelKey] | None = field(default_factory=dict)
    away: bool = False  # the models are looked for, and do not come
    not_served: bool = False  # they are deployed, and nobody serves them
    asked: int = 0  # how often they were looked for
    has_output: bool = False  # a record of it; it has no content
    began: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    published: list[tuple[str, Halt | None]] = field(default_factory=list)
    unpublished: list[str] = field(default_factory=list)

    def runs(self, batch_id: str) -> None:
        """Called in the thread of each job that runs: what else is to happen then."""


class ScriptedJob:
    def __init__(self, order: pb.BatchOrder, script: Script) -> None:
        self._id = order.id
        self._namespace = order.namespace
        self._script = script

    def check(self) -> Checked:
        return Checked(10, ("m",))

    def run(self, models: dict[str, ModelKey], tell: Callable[[Counts], None], stop: threading.Event) -> None:  # noqa: ARG002
        self._script.began.append(self._id)
        if self._script.fail:
            raise Unavailable(self._script.fail)
        if self._script.stumble:
            self._script.done += 1
            tell(Counts(10, self._script.done, 0, 40, 20, 0))
            raise Unavailable(self._script.stumble)
        tell(Counts(10, self._script.done, 0, 40, 20, 0))
        self._script.runs(self._id)
        while not self._script.go.wait(0.02):
            if stop.is_set() and not self._script.deaf:
                self._script.stopped.append(self._id)
                return
        tell(Counts(10, 10, 0, 100, 50, 0))

    def publish(self, halt: Halt | None) -> Published:
        self._script.published.append((self._id, halt))
        if self._script.publish_fails:
            raise RuntimeError("a bug at /var/secret")
        counts = Counts(10, self._script.done if halt else 10, 0)
        if not self._script.has_output:
            return Published(counts)
        record = pb.FileRecord(id=new_file_id(), namespace=self._namespace)
        return Published(counts, (record,), record.id)

    def unpublish(self, published: Published) -> None:
        self._script.unpublished.append(published.output_file)

    def discard(self) -> None:
        """It kept nothing."""


class Taking:
    """Runners of a namespace of their own."""

    def __init__(self, store: EtcdClient, stack: AsyncExitStack) -> None:
        self.store = store
        self.namespace = f"n{secrets.token_hex(4)}"
        self.book = OrderBook(store, max_unfinished=99)
        self._stack = stack

    async def runner(
        self, name: str, script: Script, *, concurrency: int = 1, batch_id: str = "", max_attempts: int = 16
    ) -> Runner:
        """`batch_id`: the only batch that it takes."""

        async def find(order: pb.BatchOrder, names: tuple[str, ...]) -> dict[str, ModelKey]:  # noqa: ARG001
            script.asked += 1
            if script.not_served:
                raise ModelAway("deployed, and served by nobody: m")
            if script.away:
                await asyncio.Event().wait()
            if script.models is None:
                raise NotFound("the model `m` does not exist")
            return script.models

        made = Runner(
            self.store,
            Identity(
                name,
                "east",
                frozenset({self.namespace, f"{self.namespace}b"}),
                concurrency,
                lease_ttl_s=30,
                batch_id=batch_id,
                max_attempts=max_attempts,
            ),
            lambda order: ScriptedJob(order, script),
            find,
            RunnerInstruments(CollectorRegistry()),
        )
        self._stack.push_async_callback(made.close)
        await made.start()
        return made

    async def order(self, *, tenant: str = "", **fields: Any) -> Batch:
        """`tenant` "b": of another one, whose batches the runners take, too."""
        namespace = f"{self.namespace}{tenant}"
        order = order_of(f"batch_{secrets.token_hex(8)}", created=time.time(), namespace=namespace, **fields)
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


async def begun(taking: Taking, batch: Batch) -> Batch:
    """With the counts that its job has told."""

    async def look() -> Batch | None:
        now = await taking.now(batch)
        return now if now.status is not None and now.status.completed else None

    found = await aeventually(look, timeout_s=300, what="counts are told")
    assert found is not None
    return found
