"""A shard over a real journal, on a clock that tests move."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from serving.broker.clients import Clients, Submitted
from serving.broker.items import NEVER, Item, State
from serving.broker.keeping import Keeping
from serving.broker.pulls import begin_new
from serving.broker.running import Running
from serving.broker.settings import BrokerSettings
from serving.broker.shard import Shard
from serving.broker.shelf import DiskShelf, Shelf
from serving.broker.upkeep import Upkeep
from serving.control.clock import ManualClock
from serving.errors import MeshError


class Taken(AssertionError):
    """Another one has the journal."""


class HeldShard:
    """Its own listener: `stopped` are the stops that replicas would hear."""

    def __init__(self, path: Path, clock: ManualClock, **changes: Any) -> None:
        self.path = path
        self.clock = clock
        self.changes = changes
        given: dict[str, Any] = {"lease_s": 15.0, "sync": "normal", **changes}
        self.settings = BrokerSettings(folder=path.parent, deployments=("it",), **given)
        self.stopped: list[tuple[str, str, int]] = []
        self.unsettled = 0
        self.takes: tuple[str, str] | None = None  # a replica with its process that has room
        self.got: list[int] = []  # items whose requests replicas were given

    def _shelf(self) -> Shelf:
        return DiskShelf(self.path.parent, self.settings.sync)

    async def open(self) -> HeldShard:
        self.shelf = self._shelf()
        await asyncio.to_thread(self.shelf.prepare)
        self.place = self.shelf.place(self.path.stem)
        if not await asyncio.to_thread(self.place.take, begin=True):
            raise Taken(f"another one has {self.path}")
        try:
            journal = await asyncio.to_thread(self.place.open, asyncio.get_running_loop())
            self.shard = Shard(journal, self.settings, self.clock, self, lambda: 0.5)
            await self.shard.recover()
        except BaseException:
            await asyncio.to_thread(self.place.release)
            raise
        keeping = Keeping(self.shard)
        self.clients = Clients(self.shard, keeping)
        self.upkeep = Upkeep(self.shard, keeping)
        return self

    async def close(self) -> None:
        await self.shard.close()
        await asyncio.to_thread(self.place.release)
        await asyncio.to_thread(self.shelf.close)

    async def again(self) -> HeldShard:
        """Another one of the same journal, which is closed."""
        return await type(self)(self.path, self.clock, **self.changes).open()

    async def reborn(self, path: Path) -> HeldShard:
        """Another one, at `path`, of what a machine that lost power now would leave; this one goes on, to no effect."""
        for suffix in ("", "-wal"):  # the log only grows, and the file changes at its folding
            shutil.copyfile(f"{self.path}{suffix}", f"{path}{suffix}")
        return await type(self)(path, self.clock, **self.changes).open()

    def lose_request(self, number: int) -> None:
        """As a fault of the disk would; the journal is closed."""
        with contextlib.closing(sqlite3.connect(self.path)) as database, database:
            database.execute("DELETE FROM requests WHERE number = ?", (number,))

    def kept_states(self, number: int) -> tuple[int, int | None]:
        """The states of an item and of its callback, as others would find them now."""
        with sqlite3.connect(self.path) as other:
            found = other.execute("SELECT state FROM callbacks WHERE number = ?", (number,)).fetchone()
            (item,) = other.execute("SELECT state FROM items WHERE number = ?", (number,)).fetchone()
        other.close()
        return item, found[0] if found else None

    def waiting(self) -> None: ...

    def begin(self, journal: str, items: Sequence[Item]) -> dict[int, Running]:
        """Those that `takes` has room for."""
        assert journal == self.shard.name
        if self.takes is None or self.shard.queues.waits("it"):
            return {}
        begun = begin_new(self.shard, items, partial(self.shard.take, "it", 1000, *self.takes))
        for running in begun.values():
            self._expect(running)
        return begun

    def stop(self, replica: str, item: str, attempt: int, reason: str) -> None:
        assert reason
        self.stopped.append((replica, item, attempt))

    def silent(self, replica: str, item: str, attempt: int) -> None: ...

    async def settle(self) -> None:
        """Until nothing is on its way to the disk."""
        while any(running.busy for running in self.shard.running.values()) or self.shard._tasks or self.unsettled:
            await self._written()
        await self._written()

    async def _written(self) -> None:
        await asyncio.gather(*self.shard._tasks, return_exceptions=True)
        arrived = asyncio.get_running_loop().create_future()
        self.shard.journal.write([], lambda _: arrived.set_result(None))
        await arrived

    # ------------------------------------------------------------------------------------------------ short words

    def item(self, **changes: Any) -> Item:
        now = self.clock.now()
        usual: dict[str, Any] = {
            "number": 0, "deployment": "it", "tenant": "", "key": "", "priority": 2, "submitted": now,
            "deadline": NEVER, "expected_s": 0.0, "ttl_s": 0.0, "size_bytes": 4,
        }  # fmt: skip
        return Item(**{**usual, **changes})

    async def submit(self, body: bytes = b"body", **changes: Any) -> int:
        """The number; raises what it is refused with."""
        (answer,) = await self.clients.submit([(self.item(size_bytes=len(body), **changes), body)])
        if isinstance(answer, MeshError):
            raise answer
        assert isinstance(answer, Submitted)
        return answer.number

    async def start_next(self, replica: str = "r", process: str = "p") -> Running | None:
        """Takes the next one; `settle` tells whether it has started. The request is checked."""
        running = self.shard.take("it", 1000, replica, process)
        if running is not None:
            self._expect(running)
            assert running.then is not None
            self.shard.start([running], running.then)
        return running

    def _expect(self, running: Running) -> None:
        self.unsettled += 1

        def told(_: Running, request: bytes | None) -> None:
            self.unsettled -= 1
            if request is not None:
                assert len(request) == running.item.size_bytes
                self.got.append(running.item.number)

        running.then = told

    async def start(self, replica: str = "r", process: str = "p") -> Item | None:
        running = await self.start_next(replica, process)
        await self.settle()
        return running.item if running is not None else None

    async def done(self, number: int, attempt: int, result: bytes = b"result", state: State = State.SUCCEEDED) -> bool:
        told: list[bool] = []
        self.shard.done(number, attempt, state, result, told.append)
        await self.settle()
        return told == [True]

    async def tick(self, seconds: float) -> None:
        """So many seconds pass, one after the other."""
        while seconds > 0:
            self.clock.advance(min(1.0, seconds))
            seconds -= 1.0
            self.upkeep.tick()
            await self.settle()
