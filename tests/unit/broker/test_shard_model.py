"""The shard beside a naive model: any order of events, late and repeated results, callbacks, crashes at any point."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from serving.broker.callbacks.records import CallbackState
from serving.broker.items import Callback, State
from serving.control.clock import ManualClock
from serving.errors import FailedPrecondition, NotFound
from serving.timeouts import cancel_and_wait
from tests.support.redis_shards import RedisShard
from tests.support.shards import HeldShard
from tests.unit.broker.shard_model import LEASE_S, TTL_S, Known, ShardModel

REPLICAS = st.sampled_from(["a", "b"])
# Which one of what there is: a crash may or may not find the last write, so what can be drawn must not depend on it.
PICKS = st.integers(0, 1 << 16)
CALLBACK = Callback("https://a.org/", "a.org:443", "", frozenset(one for one in State if not one.live))


class ShardMachine(ShardModel):
    @rule(
        deadline=st.sampled_from([math.inf, 3.0, 20.0]),
        priority=st.integers(1, 3),
        tenant=st.sampled_from("xy"),
        callback=st.sampled_from([True, True, False]),
    )
    def submit(self, deadline: float, priority: int, tenant: str, callback: bool) -> None:
        until = self.clock.now() + deadline
        wanted = CALLBACK if callback else None
        number = self.run(self.held.submit(deadline=until, priority=priority, tenant=tenant, callback=wanted))
        assert number not in self.known
        self.known[number] = Known(until, callback=callback)

    def _takes(self, replica: str) -> bool:
        """The replica has room for what comes next; whether that starts at once."""
        self.held.takes = (replica, f"p{self.processes[replica]}")
        return not any(one.state is State.QUEUED for one in self.known.values())

    def _starts(self, number: int, replica: str) -> None:
        one = self.known[number]
        one.state, one.attempt, one.attempts = State.RUNNING, one.attempt + 1, one.attempts + 1
        one.replica, one.process = replica, f"p{self.processes[replica]}"
        one.lease_until = self.clock.now() + LEASE_S

    @rule(deadline=st.sampled_from([math.inf, 3.0]), replica=REPLICAS, callback=st.booleans())
    def submit_to_a_replica_with_room(self, deadline: float, replica: str, callback: bool) -> None:
        starts, until = self._takes(replica), self.clock.now() + deadline
        number = self.run(self.held.submit(deadline=until, callback=CALLBACK if callback else None))
        self.run(self.held.settle())
        self.held.takes = None
        self.known[number] = Known(until, callback=callback)
        assert (number in self.held.got) == starts
        if starts:
            self._starts(number, replica)
            self.sent.append((number, 1))

    @rule(replica=REPLICAS)
    def start(self, replica: str) -> None:
        process = f"p{self.processes[replica]}"
        item = self.run(self.held.start(replica, process))
        waiting = [one for one in self.known.values() if one.state is State.QUEUED]
        if item is None:
            assert not waiting
            return
        one = self.known[item.number]
        assert one.state is State.QUEUED
        self._starts(item.number, replica)
        assert item.attempt == one.attempt
        self.sent.append((item.number, item.attempt))

    @rule(pick=PICKS, failed=st.booleans())
    def done(self, pick: int, failed: bool) -> None:
        """Also late and repeated ones."""
        number, attempt = self.sent[pick % len(self.sent)]
        one = self._running(number, attempt)
        state = State.FAILED if failed else State.SUCCEEDED
        result = b"%d" % next(self.results)
        assert self.run(self.held.done(number, attempt, result, state)) == (one is not None)
        if one is not None:
            self._end(one, state, result)

    @rule(pick=PICKS)
    def done_twice_at_once(self, pick: int) -> None:
        number, attempt = self.sent[pick % len(self.sent)]
        one = self._running(number, attempt)
        told: list[tuple[bytes, bool]] = []
        first, second = b"%d" % next(self.results), b"%d" % next(self.results)
        for result in (first, second):
            self.held.shard.done(
                number, attempt, State.SUCCEEDED, result, lambda wanted, result=result: told.append((result, wanted))
            )
        self.run(self.held.settle())
        assert told == [(first, one is not None), (second, False)]
        if one is not None:
            self._end(one, State.SUCCEEDED, first)

    @rule()
    def late(self) -> None:
        """Results of the attempt before the one that runs."""
        for number, one in self.known.items():
            if one.state is State.RUNNING and one.attempt > 1:
                assert not self.run(self.held.done(number, one.attempt - 1, b"late"))
                assert not self.held.shard.progress(number, one.attempt - 1, 0.5, [])

    @rule(pick=PICKS, untouched=st.booleans())
    def again(self, pick: int, untouched: bool) -> None:
        number, attempt = self.sent[pick % len(self.sent)]
        one = self._running(number, attempt)
        told: list[bool] = []
        self.held.shard.again(number, attempt, "full", told.append, untouched=untouched)
        self.run(self.held.settle())
        assert told == [one is not None]
        if one is not None:
            self._lose(one, counted=not untouched)

    @rule(pick=PICKS)
    def progress(self, pick: int) -> None:
        number, attempt = self.sent[pick % len(self.sent)]
        one = self._running(number, attempt)
        assert self.held.shard.progress(number, attempt, 0.5, [(0, b"part")]) == (one is not None)
        if one is not None:
            one.lease_until = self.clock.now() + LEASE_S

    @rule(replica=REPLICAS, restarted=st.booleans(), picks=st.lists(PICKS, max_size=4))
    def connect(self, replica: str, restarted: bool, picks: list[int]) -> None:
        self.processes[replica] += restarted
        process = f"p{self.processes[replica]}"
        named = {self.sent[pick % len(self.sent)] for pick in picks}
        lost = self.held.shard.hold(replica, process, named)
        self.run(self.held.settle())
        for number, one in self.known.items():
            if one.state is not State.RUNNING or one.replica != replica:
                continue
            if one.process == process and (number, one.attempt) in named:
                one.lease_until = self.clock.now() + LEASE_S
                assert (number, one.attempt) not in lost
            else:
                self._lose(one)
        kept = {(number, one.attempt) for number, one in self.known.items() if one.replica == replica}
        assert named - kept <= lost

    @rule(replica=REPLICAS)
    def leaves(self, replica: str) -> None:
        self.held.shard.replica_left(replica, "gone")
        self.run(self.held.settle())
        for one in self.known.values():
            if one.state is State.RUNNING and one.replica == replica:
                self._lose(one)

    @rule(seconds=st.sampled_from([1, 5, 20]))
    def time_passes(self, seconds: int) -> None:
        for _ in range(seconds):
            self.run(self.held.tick(1.0))
            self._pass()

    @rule(pick=PICKS)
    def cancel(self, pick: int) -> None:
        if not self.known:
            return
        number = sorted(self.known)[pick % len(self.known)]
        one = self.known[number]
        item, _ = self.run(self.held.clients.cancel(number))
        if one.state.live:
            self._end(one, State.CANCELLED)
        assert item.state is one.state

    @rule(pick=PICKS)
    def retry(self, pick: int) -> None:
        if not self.known:
            return
        number = sorted(self.known)[pick % len(self.known)]
        one = self.known[number]
        if one.state.answered:
            with pytest.raises(FailedPrecondition):
                self.run(self.held.clients.retry(number))
            return
        self.run(self.held.clients.retry(number))
        if not one.state.live:
            one.state, one.attempts, one.expires = State.QUEUED, 0, math.inf
            one.called = CallbackState.WAITS
            if one.deadline <= self.clock.now():
                one.deadline = math.inf

    @rule(pick=PICKS)
    def look(self, pick: int) -> None:
        if not self.known:
            return
        number = sorted(self.known)[pick % len(self.known)]
        item, result = self.run(self.held.clients.get(number))
        assert (item.state, result) == (self.known[number].state, self.known[number].result)
        with pytest.raises(NotFound):
            self.run(self.held.clients.get(10_000))

    # ------------------------------------------------------------------------------------------------ callbacks

    def _with_callback(self, state: CallbackState, pick: int) -> tuple[int, Known] | None:
        able = [(number, one) for number, one in sorted(self.known.items()) if one.callback and one.called is state]
        return able[pick % len(able)] if able else None

    def _called(self, one: Known, state: CallbackState) -> None:
        one.called = state
        one.expires = math.inf if state is CallbackState.DUE else self.clock.now() + TTL_S

    async def _sent(self, number: int, state: CallbackState) -> None:
        """A try with this outcome."""
        callbacks = self.held.shard.callbacks
        due = callbacks.entries[number]
        kept = await callbacks.read(due, 1 << 20)
        assert kept is not None
        one = self.known[number]
        assert (kept.item.state, kept.result, kept.record.due) == (one.state, one.result, one.due)
        after = replace(kept.record, state=state, tries=kept.record.tries + 1, next=self.clock.now() + 1)
        await callbacks.settle(due, kept, after)

    @rule(pick=PICKS, state=st.sampled_from([CallbackState.DUE, CallbackState.DELIVERED, CallbackState.DEAD]))
    def call_back(self, pick: int, state: CallbackState) -> None:
        found = self._with_callback(CallbackState.DUE, pick)
        if found is not None:
            self.run(self._sent(found[0], state))
            self._called(found[1], state)

    @rule(pick=PICKS)
    def call_back_while_it_is_put_back(self, pick: int) -> None:
        """What came of the earlier end changes nothing of the item that waits."""
        found = self._with_callback(CallbackState.DUE, pick)
        if found is None or found[1].state.answered:
            return
        number, one = found

        async def both() -> None:
            callbacks = self.held.shard.callbacks
            due = callbacks.entries[number]
            kept = await callbacks.read(due, 0)
            assert kept is not None
            await self.held.clients.retry(number)
            await callbacks.settle(due, kept, replace(kept.record, state=CallbackState.DELIVERED))

        self.run(both())
        one.state, one.attempts, one.expires, one.called = State.QUEUED, 0, math.inf, CallbackState.WAITS
        if one.deadline <= self.clock.now():
            one.deadline = math.inf

    @rule(pick=PICKS)
    def crash_while_it_calls_back(self, pick: int) -> None:
        """It is called back again, or not: its record says which."""
        found = self._with_callback(CallbackState.DUE, pick)
        if found is None:
            return
        number, one = found
        callbacks = self.held.shard.callbacks
        kept = self.run(callbacks.read(callbacks.entries[number], 0))
        after = replace(kept.record, state=CallbackState.DELIVERED)
        writing = self.loop.create_task(callbacks.settle(callbacks.entries[number], kept, after))
        self.run(asyncio.sleep(0))
        self._reopen()
        self._end_write(writing)
        if self._kept(number).record.state is CallbackState.DELIVERED:
            self._called(one, CallbackState.DELIVERED)

    @rule(pick=PICKS)
    def call_back_again(self, pick: int) -> None:
        found = self._with_callback(CallbackState.DEAD, pick)
        if found is not None:
            self.run(self.held.shard.callbacks.retry(found[0]))
            self._called(found[1], CallbackState.DUE)
            found[1].due = self.clock.now()

    # ------------------------------------------------------------------------------------------------ crashes

    @rule()
    def crash(self) -> None:
        """Without goodbye, when nothing is on its way."""
        self._reopen()

    @rule(pick=PICKS)
    def crash_while_it_ends(self, pick: int) -> None:
        """A result that nobody was told about may be there or not; nothing else may be."""
        number, attempt = self.sent[pick % len(self.sent)]
        one = self._running(number, attempt)
        result = b"%d" % next(self.results)
        self.held.shard.done(number, attempt, State.SUCCEEDED, result, lambda _: None)
        self._reopen()
        if one is not None:
            item, kept = self.run(self.held.clients.get(number))
            if item.state is State.SUCCEEDED:
                assert kept == result
                self._end(one, State.SUCCEEDED, result)

    @rule(replica=REPLICAS)
    def crash_while_it_starts(self, replica: str) -> None:
        process = f"p{self.processes[replica]}"
        running = self.run(self.held.start_next(replica, process))
        self._reopen()
        if running is not None:
            item, _ = self.run(self.held.clients.get(running.item.number))
            if item.state is State.RUNNING:
                self._starts(running.item.number, replica)

    @rule(replica=REPLICAS, turns=st.integers(1, 3))
    def crash_while_it_is_submitted(self, replica: str, turns: int) -> None:
        """Nobody has a ticket: it is kept as it was to start, or not at all. A replica may only have what is kept."""
        starts, held = self._takes(replica), self.held
        number = held.clients._keeping._next
        submitting = self.loop.create_task(held.submit())
        for _ in range(turns):
            self.run(asyncio.sleep(0))
        must_be = submitting.done() or number in held.got
        self._reopen()
        self._end_write(submitting)
        try:
            item, _ = self.run(self.held.clients.get(number))
        except NotFound:
            assert not must_be
            return
        assert item.state is (State.RUNNING if starts else State.QUEUED)
        self.known[number] = Known(math.inf)
        if starts:
            self._starts(number, replica)

    @rule()
    def moves(self) -> None:
        """To another broker, as at a drain."""
        self.run(self.held.close())
        self.held = self._follow(self.run(self.held.again()))
        self._renew_leases()


async def test_a_result_of_an_earlier_attempt_changes_nothing(tmp_path: Path) -> None:
    held = await HeldShard(tmp_path / "j.sqlite", ManualClock(), lease_s=LEASE_S).open()
    number = await held.submit()
    first = await held.start("a")
    await held.tick(LEASE_S + 1)
    second = await held.start("b")
    assert first is not None
    assert second is not None
    assert held.stopped == [("a", held.shard.id_of(number), 1)]
    assert not await held.done(number, first.attempt, b"late")
    assert not held.shard.progress(number, first.attempt, 0.5, [])
    assert await held.done(number, second.attempt, b"right")
    assert not await held.done(number, second.attempt, b"again")
    item, result = await held.clients.get(number)
    assert (item.state, item.attempts, result) == (State.SUCCEEDED, 2, b"right")
    await held.close()


class RedisShardMachine(ShardMachine):
    """The same for a journal in Redis. Who crashed still lives, and is fenced off."""

    make = RedisShard

    def _end_write(self, writing: asyncio.Task[None]) -> None:
        self.run(cancel_and_wait(writing))


TestShard = ShardMachine.TestCase
TestRedisShard = RedisShardMachine.TestCase
TestShard.settings = TestRedisShard.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
