"""What the tests of the store share: a follower of a watch, waiting for facts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

from serving.store import Changes, Disconnected, EtcdClient, KeyValue, Resync, WatchEvent

LONG_S = 90.0  # the machine may be busy: nothing is waited for that should take so long


async def eventually(condition: Callable[[], bool], what: str, timeout_s: float = LONG_S) -> None:
    """Returns when the condition is true; fails with what was awaited."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    over = False
    while not condition():
        assert not over, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.01)
        over = asyncio.get_running_loop().time() > deadline  # before the look: after a stall there is one more


class Follower:
    """Follows a watch, keeps what it says, and checks that it contradicts itself nowhere."""

    def __init__(self, client: EtcdClient, prefix: str) -> None:
        self.client = client
        self.prefix = prefix
        self.events: list[WatchEvent] = []
        self.view: dict[str, KeyValue] = {}
        self.history: list[KeyValue] = []  # every put that was told, in order
        self.revision = 0
        self.began = asyncio.Event()

    async def run(self) -> None:
        async with aclosing(self.client.watch(self.prefix)) as events:
            async for event in events:
                self.take(event)

    def take(self, event: WatchEvent) -> None:
        assert not (self.stale and isinstance(event, Disconnected)), "told twice that the view is stale"
        self.events.append(event)
        self.began.set()
        if isinstance(event, Resync):
            self.view = {kv.key: kv for kv in event.snapshot.kvs}
            self.revision = event.snapshot.revision
            self.history += event.snapshot.kvs
        elif isinstance(event, Changes):
            assert event.revision >= self.revision, "revisions go back"
            told = [kv.mod_revision for kv in event.puts]
            assert told == sorted(told)
            assert all(revision > self.revision for revision in told), "a change was told twice"
            for key in event.deletes:
                self.view.pop(key, None)
            for kv in event.puts:
                self.view[kv.key] = kv
            self.history += event.puts
            self.revision = event.revision

    def count(self, kind: type[Resync] | type[Changes] | type[Disconnected]) -> int:
        return sum(isinstance(event, kind) for event in self.events)

    @property
    def stale(self) -> bool:
        """What the last event says. A machine that stops for a second makes any view stale for a moment."""
        return bool(self.events) and isinstance(self.events[-1], Disconnected)

    @property
    def replacements(self) -> int:
        return sum(isinstance(event, Resync) and event.store_replaced for event in self.events)

    def values(self) -> dict[str, bytes]:
        return {key.removeprefix(self.prefix): kv.value for key, kv in self.view.items()}


@asynccontextmanager
async def following(client: EtcdClient, prefix: str) -> AsyncIterator[Follower]:
    """A follower that has its first picture."""
    follower = Follower(client, prefix)
    task = asyncio.create_task(follower.run())
    try:
        await eventually(lambda: follower.count(Resync) > 0 or task.done(), "the first picture")
        yield follower
        assert not task.done(), f"the watch ended: {task}"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
