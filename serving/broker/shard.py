"""One journal with its queues and leases: every change of an item's state. Belongs to one event loop.

An item is `busy` while a change of it is not on disk, and what comes meanwhile waits: memory decides in the order of
arrival, and the journal follows in the same order.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from serving.broker import queries
from serving.broker.callbacks.due import DueCallbacks
from serving.broker.items import Item, State
from serving.broker.journal import Journal
from serving.broker.journal_changes import Change
from serving.broker.limits import Limits
from serving.broker.partial_results import PartialResult
from serving.broker.queue import Waiting
from serving.broker.queues import Queues, bare_item
from serving.broker.recent import Ended, Fresh, Watchers
from serving.broker.running import Listener, Loaded, Running, Told
from serving.broker.settings import BrokerSettings
from serving.control.clock import Clock
from serving.errors import MeshError
from serving.timeouts import cancel_and_wait

_LOG: Final = logging.getLogger(__name__)
_PAUSE_S: Final = 1.0  # after a start that could not be written
_SLICE: Final = 500  # items that are read or ended together


class Shard:
    """From `recover` to `close`. What is not `async` answers at once; what it writes is told later."""

    def __init__(
        self,
        journal: Journal,
        settings: BrokerSettings,
        clock: Clock,
        listener: Listener,
        random_share: Callable[[], float] = random.random,
    ) -> None:
        self.journal = journal
        self.name = journal.name
        self.settings = settings
        self.clock = clock
        self.limits = Limits(settings, random_share)
        self.queues = Queues(clock.now, settings.queue)
        self.watchers = Watchers()
        self.ended = Ended()
        self.fresh = Fresh()
        self.listener = listener
        self.running: dict[int, Running] = {}
        self.callbacks = DueCallbacks(self)
        self.claimed: set[int] = set()  # items that have ended and are being changed
        self._tasks: dict[asyncio.Task[None], bool] = {}  # whether something is on its way in it
        self._paused_until = 0.0

    # ------------------------------------------------------------------------------------------------ life

    async def recover(self) -> None:
        """Reads what waits and runs. What ran gets a whole lease: its replica is on its way here."""
        ran: list[int] = []
        after = 0
        while rows := await self.journal.read(partial(queries.live, after=after)):
            after = rows[-1][0]
            for number, state, deployment, tenant, *rest in rows:
                self.limits.add(tenant, rest[-1])
                if state == State.QUEUED:
                    self.queues.recovered(deployment, number, tenant, *rest)
                else:
                    ran.append(number)
        found = await self.journal.read(partial(queries.items, numbers=ran))
        lease_until = self.clock.monotonic() + self.settings.lease_s
        self.running.update((item.number, Running(item, lease_until)) for item in found)
        self.queues.dead.update(await self.journal.read(queries.dead))
        if self.settings.tenants_apart:
            self.limits.recover_ended(await self.journal.read(queries.ended_bytes))
        await self.callbacks.recover()
        _LOG.info("journal opened", extra={"journal": self.name, "items": self.limits.items})
        self.listener.waiting()

    @property
    def empty(self) -> bool:
        """Nothing is kept, nothing is on its way."""
        return self.journal.items == 0 and self.limits.items == 0 and not any(self._tasks.values())

    async def close(self) -> None:
        """Ends what waits for it with UNAVAILABLE, writes what was decided, and lets go of the file."""
        self.watchers.close()
        await cancel_and_wait(*self._tasks)
        await asyncio.to_thread(self.journal.close)
        await asyncio.sleep(0)  # what was written last is told to those who wait for it
        for running in list(self.running.values()):
            running.tell(None)  # what was on its way to a replica is not any more

    def spawn(self, work: Coroutine[Any, Any, None], *, upkeep: bool = False) -> asyncio.Task[None]:
        """Runs it, at most until `close`. Until it has ended something is on its way, but for `upkeep`."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = not upkeep
        task.add_done_callback(self._spawned)
        return task

    def _spawned(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            level = logging.WARNING if isinstance(error, MeshError) else logging.ERROR
            _LOG.log(level, "journal work failed", exc_info=error, extra={"journal": self.name})

    # ------------------------------------------------------------------------------------------------ starting

    @property
    def paused(self) -> bool:
        """Nothing is started: the disk did not take the last start."""
        return self.clock.monotonic() < self._paused_until

    def take(self, deployment: str, places: int, replica: str, process: str, ahead: int = 0) -> Running | None:
        """The next item for a replica that has room; to be given to `start`. None: nothing may start."""
        found = None if self.paused else self.queues.take(deployment, places, ahead)
        if found is None:
            return None
        waiting, long = found
        running = self._claim(deployment, waiting)
        running.replica, running.process, running.long = replica, process, long
        return running

    def start(self, batch: Sequence[Running], then: Callable[[Running, bytes | None], None]) -> None:
        """Writes their attempts down; then calls `then` for each with its request, or None where it may not run."""
        hot: list[Loaded] = []
        cold: list[Running] = []
        for running in batch:
            running.then = then
            known = self.fresh.pop(running.item.number)
            if known is None:
                cold.append(running)
            else:
                running.item = known[0]
                hot.append((running, known[1]))
        if hot:
            self._start_loaded(hot)
        self._load(cold, self._start_loaded)

    def _claim(self, deployment: str, waiting: Waiting) -> Running:
        """Of an item that is out of its queue."""
        running = Running(bare_item(deployment, waiting), busy=True)
        self.running[waiting.number] = running
        return running

    def _load(self, batch: Sequence[Running], then: Callable[[list[Loaded]], object]) -> None:
        """Reads what only the disk knows of claimed items. Those that cannot be read go back."""
        for at in range(0, len(batch), _SLICE):
            self.spawn(self._read(batch[at : at + _SLICE], then))

    async def _read(self, batch: Sequence[Running], then: Callable[[list[Loaded]], object]) -> None:
        numbers = [running.item.number for running in batch]
        try:
            found = await self.journal.read(partial(queries.items_with_requests, numbers=numbers))
        except MeshError:
            for running in batch:
                self._put_back(running)
            self._paused_until = self.clock.monotonic() + _PAUSE_S
            raise
        loaded: list[Loaded] = []
        for running in batch:
            running.item, body = found[running.item.number]
            if body is None:  # it would be read again for ever, and what is read with it, too
                self._finish(running, State.DEAD, "its request is not in the journal any more: the file is damaged")
            else:
                loaded.append((running, body))
        then(loaded)

    def _start_loaded(self, batch: list[Loaded]) -> None:
        now = self.clock.now()
        changes = []
        starts: list[tuple[Running, Item, bytes]] = []
        for running, body in batch:
            after = running.started(now)
            starts.append((running, after, body))
            changes.append(Change.changed(running.item, after))
        self.journal.write(changes, partial(self.started, starts))

    def started(self, starts: Sequence[tuple[Running, Item, bytes]], errors: Sequence[MeshError | None]) -> None:
        """Their starts are written, or were not."""
        for (running, after, body), error in zip(starts, errors, strict=True):
            if error is not None:
                self._not_written(running, error)
                continue
            running.item = after
            running.partial = PartialResult(after.attempt)
            running.lease_until = self.clock.monotonic() + self.settings.lease_s
            running.free()
            self.watchers.changed(after.number)
            running.tell(None if running.busy or self.running.get(after.number) is not running else body)

    def _put_back(self, running: Running) -> None:
        """Of one that did not start, or did not end while it waited."""
        del self.running[running.item.number]
        self.queues.release(running.item)
        self.queues.add(running.item)
        running.tell(None)
        running.free()

    def not_sent(self, running: Running) -> None:
        """The replica went before its work was on its way: that attempt does not count."""
        self._lose(running, "the replica went before it had the work", counted=False)

    # ------------------------------------------------------------------------------------------------ what replicas say

    def find(self, number: int, attempt: int) -> Running | None:
        """What runs with that attempt."""
        running = self.running.get(number)
        if running is None or running.item.attempt != attempt or running.item.state is not State.RUNNING:
            return None
        return running

    def hold(self, replica: str, process: str, held: set[tuple[int, int]]) -> set[tuple[int, int]]:
        """A replica (again) says what it runs. Answers which of them it has no lease on. What it should run and does
        not name never reached it, or went with its last process: back to the queue."""
        kept: set[tuple[int, int]] = set()
        until = self.clock.monotonic() + self.settings.lease_s
        for running in list(self.running.values()):
            item = running.item
            if item.state is not State.RUNNING or item.replica != replica:
                continue
            if item.process != process:
                self._lose(running, f"replica {replica} was started again")
            elif (item.number, item.attempt) in held:
                running.lease_until = until
                kept.add((item.number, item.attempt))
            else:
                self._lose(running, f"replica {replica} did not get the work")
        return held - kept

    def progress(self, number: int, attempt: int, share: float, parts: Sequence[tuple[int, bytes]]) -> bool:
        """Extends the lease. False: the work is of no use any more."""
        running = self.find(number, attempt)
        if running is None:
            return False
        running.lease_until = self.clock.monotonic() + self.settings.lease_s
        running.progress = share
        if parts:
            for part_number, body in parts:
                running.partial.add(part_number, body)
            self.watchers.changed(number)
        return True

    def done(self, number: int, attempt: int, state: State, result: bytes, told: Told) -> None:
        """A replica's result; `state` is SUCCEEDED or FAILED."""
        running = self.find(number, attempt)
        if running is None:
            told(False)
        elif running.busy:
            running.deferred.append(partial(self.done, number, attempt, state, result, told))
        else:
            self._finish(running, state, "", result, told)

    def again(self, number: int, attempt: int, reason: str, told: Told, *, untouched: bool = False) -> None:
        """A replica gives an item back; `untouched`, and the attempt does not count."""
        running = self.find(number, attempt)
        if running is None:
            told(False)
        elif running.busy:
            running.deferred.append(partial(self.again, number, attempt, reason, told, untouched=untouched))
        else:
            self._lose(running, reason, counted=not untouched, told=told)

    def replica_left(self, replica: str, reason: str) -> None:
        """It is gone for good: what it ran goes back to the queue at once."""
        for running in list(self.running.values()):
            if running.item.state is State.RUNNING and running.item.replica == replica:
                self._lose(running, reason)

    # ------------------------------------------------------------------------------------------------ ends

    def cancel(self, number: int, then: Callable[[], None], reason: str = "cancelled by its client") -> None:
        """Calls `then` when it has ended, by this or otherwise, or when the cancellation could not be written."""
        running = self.running.get(number)
        if running is not None and running.busy:
            running.deferred.append(partial(self.cancel, number, then, reason))
        elif running is not None:
            running.deferred.append(then)
            self._finish(running, State.CANCELLED, reason)
        elif (found := self.queues.remove(number)) is not None:
            claimed = self._claim(*found)
            claimed.deferred.append(then)
            self._load([claimed], partial(self._finish_loaded, State.CANCELLED, reason))
        else:
            then()

    def expire(self) -> None:
        """Ends what has passed its deadline, and leases that are over."""
        claimed = [self._claim(*found) for found in self.queues.expire()]
        self._load(claimed, partial(self._finish_loaded, State.EXPIRED, "its deadline passed before it was started"))
        now, monotonic = self.clock.now(), self.clock.monotonic()
        for running in list(self.running.values()):
            if running.busy or running.item.state is not State.RUNNING:
                continue
            if running.item.deadline <= now:
                self._finish(running, State.EXPIRED, "its deadline passed while it ran")
            elif running.lease_until <= monotonic:
                self.listener.silent(running.item.replica, self.id_of(running.item.number), running.item.attempt)
                self._lose(running, f"replica {running.item.replica} said nothing for {self.settings.lease_s:g} s")

    def _finish_loaded(self, state: State, reason: str, loaded: list[Loaded]) -> None:
        for running, _ in loaded:
            self._finish(running, state, reason)

    def _lose(self, running: Running, reason: str, *, counted: bool = True, told: Told | None = None) -> None:
        """A lease ends without an outcome: the item waits again, or its attempts are used up."""
        if running.busy:
            running.deferred.append(partial(self._lose_again, running, running.item.attempt, reason))
            return
        item = running.item
        attempts = item.attempts - (not counted)
        if item.deadline <= self.clock.now():
            self._finish(running, State.EXPIRED, "its deadline passed", b"", told)
        elif attempts >= self.settings.max_attempts:
            text = f"{attempts} attempts were made, the last: {reason}"
            self._finish(running, State.DEAD, text, b"", told)
        else:
            after = replace(item, state=State.QUEUED, attempts=attempts, reason=reason)
            running.busy = True
            self.journal.write([Change.changed(item, after)], partial(self._requeued, running, after, told))

    def _lose_again(self, running: Running, attempt: int, reason: str) -> None:
        if self.running.get(running.item.number) is running and running.item.attempt == attempt:
            self._lose(running, reason)

    def _requeued(self, running: Running, after: Item, told: Told | None, errors: list[MeshError | None]) -> None:
        if errors[0] is not None:
            self._not_written(running, errors[0])
            return
        before, running.item = running.item, after
        del self.running[after.number]
        self.queues.release(after)
        self.queues.add(after)
        self.queues.counters(after.deployment).requeued += 1
        if told is None:  # else its replica has said so itself
            self.listener.stop(before.replica, self.id_of(after.number), before.attempt, after.reason)
        self._changed(running, told)

    def _finish(
        self, running: Running, state: State, reason: str, result: bytes = b"", told: Told | None = None
    ) -> None:
        running.busy = True
        now, before = self.clock.now(), running.item
        after = replace(before, state=state, ended=now, reason=reason, result_bytes=len(result))
        after.expires = self.settings.kept_until(after)
        body = result if state.answered else None
        self.journal.write([Change.changed(before, after, body)], partial(self._finished, running, after, body, told))

    def _finished(
        self, running: Running, after: Item, result: bytes | None, told: Told | None, errors: list[MeshError | None]
    ) -> None:
        if errors[0] is not None:
            self._not_written(running, errors[0])
            return
        before, running.item = running.item, after
        del self.running[after.number]
        running.tell(None)
        self.fresh.pop(after.number)
        self.queues.ended(after)
        if before.state is State.RUNNING and told is None:
            self.listener.stop(after.replica, self.id_of(after.number), after.attempt, after.reason)
        self.limits.end(after)
        self.ended.add(after, result)
        self.watchers.ended(after.number)
        self.callbacks.ended(after)
        self._changed(running, told)

    def _changed(self, running: Running, told: Told | None) -> None:
        self.watchers.changed(running.item.number)
        if told is not None:
            told(True)
        running.free()
        self.listener.waiting()

    def _not_written(self, running: Running, error: MeshError) -> None:
        """Nothing has changed: its replica says it again, or its lease ends again."""
        keys = {"journal": self.name, "item": self.id_of(running.item.number), "error": error.message}
        _LOG.warning("change of an item could not be written", extra=keys)
        self._paused_until = self.clock.monotonic() + _PAUSE_S
        running.lease_until = max(running.lease_until, self._paused_until)
        if running.item.state is State.QUEUED:
            self._put_back(running)
        else:
            running.free()

    def id_of(self, number: int) -> str:
        return f"{self.name}.{number}"
