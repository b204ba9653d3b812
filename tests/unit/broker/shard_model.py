"""A naive model of a shard: what must be known of each item after each event, and where the shard is opened again."""

from __future__ import annotations

import asyncio
import itertools
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant

from serving.broker.callbacks.due import Due
from serving.broker.callbacks.records import CallbackState, Kept
from serving.broker.items import State
from serving.broker.queries import ended_bytes, item_with_result
from serving.control.clock import ManualClock
from tests.support.shards import HeldShard

LEASE_S = 15.0
TTL_S = 40.0
ATTEMPTS = 2
GIVEN = {
    "lease_s": LEASE_S, "result_ttl_s": TTL_S, "dead_ttl_s": TTL_S, "max_attempts": ATTEMPTS,
    "max_tenant_bytes": 1 << 30,  # below that of all, so that they are counted; no submit meets it
}  # fmt: skip


@dataclass
class Known:
    """What the model knows of an item."""

    deadline: float
    state: State = State.QUEUED
    attempt: int = 0
    attempts: int = 0
    replica: str = ""
    process: str = ""
    lease_until: float = math.inf
    result: bytes | None = None
    expires: float = math.inf
    callback: bool = False
    called: CallbackState = CallbackState.WAITS
    due: float = 0.0


class ShardModel(RuleBasedStateMachine):
    """The shard and the model beside it. Those who inherit say what happens."""

    make: Callable[..., HeldShard] = HeldShard

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.clock = ManualClock()
        self.loop = asyncio.new_event_loop()
        self.files = itertools.count()
        self.known: dict[int, Known] = {}
        self.sent: list[tuple[int, int]] = [(1, 1)]  # work that replicas have heard of, the first one of nobody
        self.processes = {"a": 0, "b": 0}
        self.results = itertools.count()
        self.crashed: list[HeldShard] = []
        self.early: list[int] = []  # told of before it was on disk
        self.held = self._follow(self.run(self.make(self._file(), self.clock, **GIVEN).open()))

    def _file(self) -> Path:
        return Path(self.folder.name) / f"j{next(self.files)}.sqlite"

    def _follow(self, held: HeldShard) -> HeldShard:
        held.shard.callbacks.on_due = self._told_of
        return held

    def _told_of(self, due: Due) -> None:
        """Whoever sends hears of nothing that a crash could undo."""
        item, callback = self.held.kept_states(due.number)
        if callback != CallbackState.DUE or State(item).live:
            self.early.append(due.number)

    def run(self, work):
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        if hasattr(self, "held"):
            for held in (self.held, *self.crashed):
                self.run(held.close())
            self.loop.close()
            self.folder.cleanup()

    # ------------------------------------------------------------------------------------------------ the model

    def _end(self, one: Known, state: State, result: bytes | None = None) -> None:
        one.state, one.result, one.expires = state, result, self.clock.now() + TTL_S
        if one.callback:
            one.called, one.expires, one.due = CallbackState.DUE, math.inf, self.clock.now()

    def _lose(self, one: Known, *, counted: bool = True) -> None:
        attempts = one.attempts - (not counted)
        if one.deadline <= self.clock.now():
            self._end(one, State.EXPIRED)
        elif attempts >= ATTEMPTS:
            self._end(one, State.DEAD)
        else:
            one.state, one.attempts = State.QUEUED, attempts

    def _running(self, number: int, attempt: int) -> Known | None:
        one = self.known.get(number)
        return one if one is not None and one.state is State.RUNNING and one.attempt == attempt else None

    def _pass(self) -> None:
        now = self.clock.now()
        for number, one in list(self.known.items()):
            if one.state.live and one.deadline <= now:
                self._end(one, State.EXPIRED)
            elif one.state is State.RUNNING and one.lease_until <= now:
                self._lose(one)
            elif not one.state.live and one.expires <= now:
                del self.known[number]

    # ------------------------------------------------------------------------------------------------ another process

    def _reopen(self) -> None:
        self.crashed.append(self.held)
        self.held = self._follow(self.run(self.held.reborn(self._file())))
        self._renew_leases()

    def _end_write(self, writing: asyncio.Task[None]) -> None:
        """Of one that is gone."""
        self.run(writing)

    def _renew_leases(self) -> None:
        for one in self.known.values():
            one.lease_until = self.clock.now() + LEASE_S

    # ------------------------------------------------------------------------------------------------ what must hold

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "held"):
            return
        assert not self.early
        shard = self.held.shard
        live = [one for one in self.known.values() if one.state.live]
        queue = shard.queues.by_deployment.get("it")
        assert (len(queue) if queue else 0) == sum(one.state is State.QUEUED for one in live)
        assert len(shard.running) == sum(one.state is State.RUNNING for one in live)
        assert shard.limits.items == len(live)
        assert shard.queues.dead["it"] == sum(one.state is State.DEAD for one in self.known.values())
        assert shard.journal.items == len(self.known)
        assert {name: use.ended_bytes for name, use in shard.limits._tenants.items() if use.ended_bytes} == dict(
            self.run(shard.journal.read(ended_bytes))
        )
        kept = 0
        for number, one in self.known.items():
            item, result = self.run(
                shard.journal.read(lambda database, number=number: item_with_result(database, number))
            )
            kept += item.kept_bytes
            assert (item.state, item.attempt, item.attempts) == (one.state, one.attempt, one.attempts)
            assert result == one.result
            if one.callback:
                record = self._kept(number).record
                assert record.state is one.called
                assert (item.expires == math.inf) == (one.expires == math.inf)
        assert shard.journal.bytes == kept
        due = {number for number, one in self.known.items() if one.callback and one.called is CallbackState.DUE}
        assert set(shard.callbacks.entries) == due
        self.run(shard.callbacks.measure())
        totals = shard.callbacks.totals
        assert totals.dead == sum(one.called is CallbackState.DEAD for one in self.known.values())
        assert totals.oldest == min((self.known[number].due for number in due), default=math.inf)

    def _kept(self, number: int) -> Kept:
        return self.run(self.held.shard.callbacks.kept(number))
