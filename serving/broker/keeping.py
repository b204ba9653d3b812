"""What a journal keeps: new items come in, ended ones go back to their queue or are forgotten."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from serving.broker.items import NEVER, Item, State
from serving.broker.journal_changes import Change
from serving.broker.running import Running
from serving.broker.shard import Shard
from serving.errors import MeshError


class Keeping:
    """Of a shard that has recovered. Belongs to its loop."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._unwritten = 0  # bytes that submits on their way will add
        self._next = shard.journal.last_number + 1
        self._to_wait: Counter[str] = Counter()  # items on their way to the disk and then to their queue, by deployment
        self._begun: dict[int, tuple[Running, Item]] = {}  # on their way to the disk as started, with that state

    def add(self, item: Item) -> None:
        """Gives the item its number and takes its place; to be given to `changes` then. Raises `BrokerFull`."""
        self._shard.limits.check(item, self._shard.journal.bytes + self._unwritten, self._shard.journal.unwritten_bytes)
        if item.callback is not None:
            due = self._shard.callbacks
            self._shard.limits.check_callbacks(len(due.entries), item.tenant, due.by_tenant[item.tenant])
        item.number, self._next = self._next, self._next + 1
        self._shard.limits.add(item.tenant, item.size_bytes)
        self._unwritten += item.kept_bytes

    def changes(self, new: Sequence[tuple[Item, bytes]]) -> list[Change]:
        """Of each; to be written together, and `added` to be called with what came of it.

        What a replica has room for is written as started: it is on its way after one commit instead of two.
        """
        able = [item for item, _ in new if not self._to_wait[item.deployment]]
        begun = self._shard.listener.begin(self._shard.name, able)
        now = self._shard.clock.now()
        made: list[Change] = []
        for item, body in new:
            running = begun.get(item.number)
            if running is None:
                self._to_wait[item.deployment] += 1
                made.append(Change.submitted(item, body))
            else:
                after = running.started(now)
                self._begun[item.number] = (running, after)
                made.append(Change.submitted(after, body))
        return made

    def added(self, item: Item, body: bytes, error: MeshError | None) -> None:
        self._unwritten -= item.kept_bytes
        begun = self._begun.pop(item.number, None)
        if begun is None:
            self._to_wait[item.deployment] -= 1
        if error is not None:
            self._shard.limits.remove(item)
            if begun is not None:
                self._drop(begun[0])
            return
        self._shard.queues.counters(item.deployment).submitted += 1
        if begun is not None:
            self._shard.started([(*begun, body)], [None])
            return
        self._shard.fresh.add(item, body)
        self._shard.queues.add(item)
        self._shard.listener.waiting()

    def _drop(self, running: Running) -> None:
        """Of one that was to start and is not kept."""
        del self._shard.running[running.item.number]
        self._shard.queues.release(running.item)
        running.tell(None)
        running.free()

    def retry(self, before: Item, then: Callable[[MeshError | None], None]) -> None:
        """Of one that is DEAD, EXPIRED or CANCELLED, as it is on disk, and claimed. Raises `BrokerFull`."""
        limits = self._shard.limits
        limits.forget(before)  # it takes the place of itself
        try:
            limits.check(before, self._shard.journal.bytes, 0)
        except MeshError:
            limits.keep(before)
            raise
        deadline = before.deadline if before.deadline > self._shard.clock.now() else NEVER
        after = replace(
            before, state=State.QUEUED, attempts=0, ended=0.0, reason="", expires=NEVER, deadline=deadline
        )  # fmt: skip
        limits.add(after.tenant, after.size_bytes)
        self._shard.journal.write([Change.changed(before, after)], partial(self._retried, before, after, then))

    def _retried(
        self, before: Item, after: Item, then: Callable[[MeshError | None], None], errors: list[MeshError | None]
    ) -> None:
        self._shard.claimed.discard(after.number)
        if errors[0] is not None:
            self._shard.limits.remove(after)
            self._shard.limits.keep(before)
        else:
            self._shard.ended.forget(after.number)
            if before.state is State.DEAD:
                self._shard.queues.dead[after.deployment] -= 1
            self._shard.queues.add(after)
            self._shard.callbacks.withdraw(after.number)
            self._shard.watchers.changed(after.number)
            self._shard.listener.waiting()
        then(errors[0])

    def remove(self, batch: Sequence[Item], then: Callable[[], None]) -> None:
        """Forgets items that have ended."""
        self._shard.claimed.update(item.number for item in batch)
        self._shard.journal.write([Change.removed(item) for item in batch], partial(self._removed, batch, then))

    def _removed(self, batch: Sequence[Item], then: Callable[[], None], errors: list[MeshError | None]) -> None:
        for item, error in zip(batch, errors, strict=True):
            self._shard.claimed.discard(item.number)
            if error is None:
                self._shard.limits.forget(item)
                self._shard.ended.forget(item.number)
                if item.state is State.DEAD:
                    self._shard.queues.dead[item.deployment] -= 1
        then()
