"""Rows to whoever may answer them: as many at once as each endpoint takes, the longest first, every one to an end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Final, TypeVar

from serving.batch.rows.memo import Memo
from serving.batch.rows.request import RowAnswer, RowFault, RowRequest
from serving.batch.rows.waiting import Waiting
from serving.batch.sending.aside import Aside
from serving.batch.sending.channels import Channel, Channels, Transport, ask, load_of
from serving.batch.sending.lanes import Lane, Lanes
from serving.batch.sending.pending import Pending, answer_of
from serving.batch.sending.places import Places
from serving.batch.sending.row_stream import Done, RowStream, Withdraw
from serving.batch.sending.settings import Held, SenderConfig, SenderStats, StateClock
from serving.batch.sending.verdict import Next, Reply
from serving.errors import Cancelled, MeshError
from serving.routing import RetryBudget
from serving.timeouts import cancel_and_wait

_LOG: Final = logging.getLogger(__name__)
_REST_S: Final = 0.25  # of an endpoint that refuses and does not say for how long
_LONGEST_REST_S: Final = 8.0  # of one that fails again and again
_LOOK_S: Final = 1.0
_ANSWER_BYTES: Final = 1024  # what an answer takes in memory beside its body, about
_PARSED: Final = 4  # times as much as its body alone takes an answer with its parsed values, about
_CLOSED: Final = RowFault("cancelled", "the sender was closed")
T = TypeVar("T")


def _nothing() -> None:
    """Takes back a row that has its answer."""


class Sender:
    """`start`, then `send` and `send_all`, then `close`. Belongs to one event loop."""

    def __init__(self, places: Places, transport: Transport, config: SenderConfig | None = None) -> None:
        """Both are closed with it."""
        self.stats = SenderStats()
        self._places = places
        self._transport = transport
        self._config = config or SenderConfig()
        self._budget = RetryBudget(self._config.budget)
        self._memo: Memo[RowAnswer] = Memo(self._config.memo_bytes)
        self._running: dict[bytes, Pending] = {}  # rows that others may be the same as
        self._lanes = Lanes(self._config.tranche)
        self._channels = Channels(places, transport, self._config.window)
        self._aside = Aside(self._enter, lambda done, fault: self._tell(done, RowAnswer(attempts=0, fault=fault)))
        self._slots: set[asyncio.Task[None]] = set()
        self._queued = 0  # rows that were never begun
        self._room = asyncio.Event()
        self._room.set()
        self._watching: asyncio.Task[None] | None = None
        self._closed = False
        self._clock = StateClock(self.stats)

    async def start(self) -> None:
        """Returns when it is known who may be asked, or after some seconds without etcd."""
        await self._places.start(self._on_places)
        self._watching = asyncio.create_task(self._watch(), name="batch sender")

    async def close(self) -> None:
        """Rows that have no answer get a fault. May be repeated."""
        self._closed = True
        tasks = [task for task in (self._watching, *self._slots) if task is not None]
        await cancel_and_wait(*tasks)
        await self._aside.close(_CLOSED)
        for lane in self._lanes:
            for pending in tuple(lane.open):
                self._finish(pending, RowAnswer(attempts=pending.attempts, fault=_CLOSED))
        self._room.set()
        await self._transport.close()
        await self._places.close()

    def begin_clock(self) -> None:
        """What is counted in seconds begins now, and not with the start."""
        self._clock.restart()

    def snapshot(self) -> SenderStats:
        """The counters up to now."""
        self._note_state()
        return replace(self.stats)

    @property
    def limits(self) -> dict[str, int]:
        """How many rows may be at each endpoint now."""
        return self._channels.limits

    async def __aenter__(self) -> Sender:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ------------------------------------------------------------------------------------------------ sending

    async def send(self, request: RowRequest) -> RowAnswer:
        """Always answers, also where nobody does: then the answer has a fault. Whoever is cancelled takes it back."""
        answer: asyncio.Future[RowAnswer] = asyncio.get_running_loop().create_future()

        def done(found: RowAnswer) -> None:
            if not answer.done():
                answer.set_result(found)

        withdraw = await self._add(request, done)
        try:
            return await answer
        finally:
            withdraw()

    async def send_all(self, rows: Iterable[tuple[T, RowRequest]]) -> AsyncGenerator[tuple[T, RowAnswer], None]:
        """Each row's mark with its answer, as they come. No more rows are taken than may wait."""
        stream = RowStream(self._add, rows, most=2 * self._config.max_waiting)
        async with aclosing(stream.answers()) as answers:
            async for answer in answers:
                yield answer

    async def _add(self, request: RowRequest, done: Done) -> Withdraw:
        """Takes the row, or waits until there is room for it. What it gives takes the row back."""
        self.stats.rows += 1
        shared = self._shares(request, done)
        if shared is not None:
            return shared
        if self._closed or self._places.knows(request) or self._aside.full:
            return await self._enter(request, done)
        return self._aside.put(request, done)

    async def _enter(self, request: RowRequest, done: Done) -> Withdraw:
        try:
            lane, request = await self._places.lane(request)
            await self._wait_room()
            if self._closed:
                raise Cancelled(_CLOSED.message)
        except MeshError as error:
            self._tell(done, RowAnswer(attempts=0, fault=RowFault(error.code.name.lower(), error.message)))
            return _nothing
        shared = self._shares(request, done)  # it came while this one waited
        if shared is not None:
            return shared
        pending = Pending(request, lane, [done])
        if request.same:
            self._running[request.same] = pending
        self._queued += 1
        if self._queued >= self._config.max_waiting:
            self._room.clear()
        self._fill(self._lanes.add(pending))
        return partial(self._withdraw, pending, done)

    def _shares(self, request: RowRequest, done: Done) -> Withdraw | None:
        """What takes the row back, where another row's answer is its own, too."""
        if not request.same:
            return None
        known = self._memo.get(request.same)
        if known is not None:
            self.stats.same += 1
            self._tell(done, replace(known, attempts=0, work=0.0))
            return _nothing
        running = self._running.get(request.same)
        if running is None:
            return None
        self.stats.same += 1
        running.followers.append(done)
        return partial(self._withdraw, running, done)

    async def _wait_room(self) -> None:
        if self._room.is_set():
            return
        began = time.monotonic()
        while not self._room.is_set() and not self._closed:
            await self._room.wait()
        self.stats.held_s += time.monotonic() - began

    def _withdraw(self, pending: Pending, done: Done) -> None:
        if done in pending.followers:
            pending.followers.remove(done)

    # ------------------------------------------------------------------------------------------------ giving out

    def _fill(self, lane: Lane) -> None:
        """Rows of the lane to whoever has room, the least loaded first."""
        waiting = lane.waiting
        channels = self._channels.of(lane.key)
        now = time.monotonic()
        free = [channel for channel in channels if channel.has_room(now)]
        while waiting and free:
            channel = min(free, key=load_of)
            pending = self._take(waiting, channel, alone=len(channels) == 1)
            if pending is None:
                free.remove(channel)
                continue
            self._begin(channel, pending)
            if not channel.has_room(now):
                free.remove(channel)
        self._note_state()

    def _take(self, waiting: Waiting[Pending, str], channel: Channel, *, alone: bool) -> Pending | None:
        """The next row that somebody wants."""
        while (pending := waiting.take(channel.spot.key, alone=alone)) is not None:
            if not pending.begun:
                pending.begun = True
                self._queued -= 1
                if self._queued < self._config.max_waiting:
                    self._room.set()
            if pending.followers:
                return pending
            self._forget(pending)
            self._lanes.done(pending)
        return None

    def _begin(self, channel: Channel, pending: Pending) -> None:
        channel.in_flight += 1
        slot = asyncio.create_task(self._slot(channel, pending), name="batch slot")
        self._slots.add(slot)
        slot.add_done_callback(self._slots.discard)

    async def _slot(self, channel: Channel, pending: Pending | None) -> None:
        """One request after the other, as long as the window has room for this one and rows wait."""
        try:
            while pending is not None:
                await self._attempt(channel, pending)
                pending = self._next(channel)
        finally:
            channel.in_flight -= 1
            if not channel.in_flight:
                self._channels.ended(channel)
            self._note_state()

    def _next(self, channel: Channel) -> Pending | None:
        """For a slot that has become free; further ones where the window has grown."""
        if channel.gone or channel.in_flight > channel.window.limit or time.monotonic() < channel.rests_until:
            return None
        mine: Pending | None = None
        for key in self._channels.lanes_of(channel):
            lane = self._lanes.get(key)
            if lane is None or not lane.waiting:
                continue
            alone = len(self._channels.of(key)) == 1
            if mine is None:
                mine = self._take(lane.waiting, channel, alone=alone)
            while mine is not None and channel.in_flight < channel.window.limit:
                more = self._take(lane.waiting, channel, alone=alone)
                if more is None:
                    break
                self._begin(channel, more)
        return mine

    # ------------------------------------------------------------------------------------------------ one attempt

    async def _attempt(self, channel: Channel, pending: Pending) -> None:
        self.stats.attempts += 1
        sent_at = time.monotonic()
        reply = self._lanes.judged(pending, await ask(self._transport, channel.spot, pending.request))
        now = time.monotonic()
        if reply.next is Next.ANSWER:
            self._lanes.answered(pending)
            channel.rests_until = 0.0
            channel.failures = 0
            channel.window.answered(now, sent_at=sent_at, work=reply.work, in_flight=channel.in_flight)
            self._budget.request()
            self._finish(pending, answer_of(reply, pending.attempts + 1))
        elif reply.next is Next.LATER and not pending.hangs(reply, now - sent_at, self._config):
            self._refused(channel, pending, reply, sent_at, now)
        else:
            self._failed(channel, pending, reply, now)

    def _refused(self, channel: Channel, pending: Pending, reply: Reply, sent_at: float, now: float) -> None:
        """It was not begun: it waits again, and counts no attempt."""
        self.stats.refusals += 1
        channel.window.refused(now, sent_at=sent_at)
        self._rest(channel, max(reply.rest_s, _REST_S), now)
        if reply.unreachable:
            self._places.refused(channel.spot)
        self._again(channel, pending)

    def _failed(self, channel: Channel, pending: Pending, reply: Reply, now: float) -> None:
        pending.attempts += 1
        channel.failures += 1
        self._rest(channel, min(_REST_S * 2 ** min(channel.failures, 6), _LONGEST_REST_S), now)
        fault = reply.fault or RowFault("internal", f"an answer of status {reply.status}")
        spent = pending.attempts >= self._config.max_attempts
        if spent or not self._budget.try_spend(now):
            why = "" if spent else "; not tried again: too many rows fail, the retry budget is used up"
            told = RowFault(fault.code, fault.message + why, pending.attempts)
            self._finish(pending, answer_of(replace(reply, fault=told), pending.attempts))
            return
        self.stats.retries += 1
        self._again(channel, pending)

    def _rest(self, channel: Channel, seconds: float, now: float) -> None:
        """Until then it gets no further rows, unless it answers one that it has."""
        channel.rests_until = max(channel.rests_until, now + seconds)
        if not channel.wakes:
            channel.wakes = True
            asyncio.get_running_loop().call_later(seconds, self._rested, channel)

    def _rested(self, channel: Channel) -> None:
        left_s = channel.rests_until - time.monotonic()
        if left_s > 0:  # it rests again, or the loop's clock is ahead
            asyncio.get_running_loop().call_later(left_s, self._rested, channel)
            return
        channel.wakes = False
        if not channel.gone and not self._closed:
            for lane in map(self._lanes.get, self._channels.lanes_of(channel)):
                if lane is not None:
                    self._fill(lane)

    def _again(self, channel: Channel, pending: Pending) -> None:
        row = pending.row
        row.tried.add(channel.spot.key)
        others = self._channels.of(pending.lane)
        if all(other.spot.key in row.tried for other in others):
            row.tried.clear()
        lane = self._lanes.again(pending)
        if self._is_silent(lane):
            self._give_up(lane)  # at once: it may never be seen to wait
        else:
            self._fill(lane)

    def _finish(self, pending: Pending, answer: RowAnswer) -> None:
        self._forget(pending)
        self._lanes.done(pending)
        followers, pending.followers = pending.followers, []
        if pending.request.same and answer.fault is None:
            self._memo.put(pending.request.same, answer, _PARSED * len(answer.raw) + _ANSWER_BYTES)
        for number, done in enumerate(followers):
            self._tell(done, answer if not number else replace(answer, work=0.0))

    def _forget(self, pending: Pending) -> None:
        if self._running.get(pending.request.same) is pending:
            del self._running[pending.request.same]

    def _tell(self, done: Done, answer: RowAnswer) -> None:
        if answer.fault is None:
            self.stats.answers += 1
        else:
            self.stats.faults += 1
        done(answer)

    # ------------------------------------------------------------------------------------------------ background

    def _on_places(self) -> None:
        for key in self._channels.update():
            self._lanes.left(key)
        for lane in self._lanes:
            lane.waiting.forgive({channel.spot.key for channel in self._channels.of(lane.key)})
            self._fill(lane)

    async def _watch(self) -> None:
        """Looks at all that wait, whatever woke nobody; ends the wait of rows that nobody answers."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self._note_state()
            self._lanes.tidy()
            for lane in self._lanes:
                self._fill(lane)
                if lane.waiting and self._is_silent(lane):
                    self._give_up(lane)

    def _is_silent(self, lane: Lane) -> bool:
        """Requests on their way may still be answered; who refuses slowly has some there at any time."""
        silent_s = time.monotonic() - lane.heard
        busy = any(channel.in_flight for channel in self._channels.of(lane.key))
        return silent_s > self._config.patience_s + (self._config.timeout_s if busy else 0.0)

    def _give_up(self, lane: Lane) -> None:
        known = len(self._channels.of(lane.key))
        why = "all of them refuse" if known else "there is none"
        text = f"no endpoint has answered for {self._config.patience_s:g} s ({known} known: {why})"
        _LOG.warning("rows fail, as nobody answers them", extra={"endpoints": known, "rows": len(lane.waiting)})
        for pending in lane.waiting.drain():
            if not pending.begun:
                self._queued -= 1
            told = RowFault("unavailable", text, pending.attempts)
            self._finish(pending, RowAnswer(attempts=pending.attempts, fault=told))
        if self._queued < self._config.max_waiting:
            self._room.set()

    def _note_state(self) -> None:
        """What holds it up from now on."""
        if not self._lanes.any_waits():
            self._clock.enter(Held.IDLE if self._channels.has_room() else Held.BUSY)
        else:
            self._clock.enter(Held.WINDOW if self._channels.in_flight else Held.ENDPOINT)
