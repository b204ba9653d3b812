"""The callbacks of a journal, one rule each; `test_shard_model.py` mixes them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from serving.broker.callbacks import records
from serving.broker.callbacks.deliveries import Deliveries
from serving.broker.callbacks.due import Due
from serving.broker.callbacks.records import CallbackState, Record
from serving.broker.items import CALLBACK_BYTES, NEVER, ROW_BYTES, Callback, State
from serving.control.clock import ManualClock
from serving.errors import Conflict, FailedPrecondition, NotFound, Unavailable
from tests.support.redis_shards import RedisShard
from tests.support.shards import HeldShard
from tests.support.waiting import eventually_async

TTL_S = 40.0
DEAD_TTL_S = 200.0
CALLBACK = Callback("https://a.org/", "a.org:443", "hook", frozenset(one for one in State if not one.live))


@pytest_asyncio.fixture(params=[HeldShard, RedisShard])
async def held(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[HeldShard]:
    made = await request.param(tmp_path / "j1.sqlite", ManualClock(), result_ttl_s=TTL_S, dead_ttl_s=DEAD_TTL_S).open()
    yield made
    await made.close()


async def ended(held: HeldShard, callback: Callback | None = CALLBACK) -> int:
    number = await held.submit(callback=callback)
    started = await held.start()
    assert started is not None
    assert await held.done(number, started.attempt)
    return number


async def sent(held: HeldShard, number: int, state: CallbackState, due: Due | None = None) -> None:
    callbacks = held.shard.callbacks
    due = due or callbacks.entries[number]
    kept = await callbacks.read(due, 100)
    assert kept is not None
    await callbacks.settle(due, kept, replace(kept.record, state=state, tries=kept.record.tries + 1, next=1e9))


async def record(held: HeldShard, number: int) -> Record:
    return (await held.shard.callbacks.kept(number)).record


async def is_kept(held: HeldShard, number: int) -> bool:
    try:
        await held.clients.get(number)
    except NotFound:
        return False
    return True


async def test_it_becomes_due_with_the_end_and_is_told_after_it(held: HeldShard) -> None:
    told: list[Due] = []
    on_disk: list[object] = []

    def on_due(due: Due) -> None:
        with sqlite3.connect(held.shard.journal.path) as other:
            found = other.execute("SELECT state FROM callbacks WHERE number = ?", (due.number,)).fetchone()
        other.close()
        told.append(due)
        on_disk.append(found)

    held.shard.callbacks.on_due = on_due
    number = await held.submit(callback=CALLBACK)
    assert (await record(held, number)).state is CallbackState.WAITS
    assert not told
    await held.clients.cancel(number)
    assert on_disk == [(CallbackState.DUE,)]
    assert [(due.number, due.receiver, due.at) for due in told] == [(number, "a.org:443", held.clock.now())]
    assert held.shard.callbacks.entries == {number: told[0]}


async def test_an_end_that_cannot_be_written_makes_nothing_due(
    held: HeldShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = await held.submit(callback=CALLBACK)
    held.shard.callbacks.on_due = lambda due: pytest.fail(f"told of {due}")
    real = held.shard.journal.write
    monkeypatch.setattr(
        held.shard.journal,
        "write",
        lambda changes, then: real([], lambda _: then([Unavailable("the disk") for _ in changes])),
    )
    with pytest.raises(Unavailable):
        await held.clients.cancel(number)
    assert not held.shard.callbacks.entries
    monkeypatch.undo()
    held.shard.callbacks.on_due = lambda _: None
    assert (await record(held, number)).state is CallbackState.WAITS


async def test_its_item_is_kept_until_it_is_over_and_then_for_its_time(held: HeldShard) -> None:
    number = await ended(held)
    plain = await ended(held, None)
    await held.tick(10 * TTL_S)
    assert await is_kept(held, number)
    assert not await is_kept(held, plain)
    await sent(held, number, CallbackState.DUE)
    await held.tick(2 * TTL_S)
    await sent(held, number, CallbackState.DELIVERED)
    assert not held.shard.callbacks.entries
    await held.tick(TTL_S - 2)
    assert (await held.clients.get(number))[1] == b"result"
    await held.tick(4)
    assert not await is_kept(held, number)
    assert held.shard.journal.items == held.shard.journal.bytes == 0
    with sqlite3.connect(held.shard.journal.path) as other:
        assert other.execute("SELECT count(*) FROM callbacks").fetchone() == (0,)
    other.close()


async def test_dead_letters_are_kept_longer_and_sent_again_anew(held: HeldShard) -> None:
    number = await ended(held)
    await sent(held, number, CallbackState.DEAD)
    await held.tick(TTL_S + 2)
    found, more = await held.shard.callbacks.page(CallbackState.DEAD, 0, 10)
    assert ([kept.item.number for kept in found], more) == ([number], None)
    await held.shard.callbacks.measure()
    assert held.shard.callbacks.totals == records.Totals(1, NEVER)
    now = held.clock.now()
    again = (await held.shard.callbacks.retry(number)).record
    assert (again.state, again.tries, again.due, again.round) == (CallbackState.DUE, 0, now, 1)
    assert held.shard.callbacks.entries[number].at == now
    await held.tick(2 * DEAD_TTL_S)
    assert await is_kept(held, number)
    await sent(held, number, CallbackState.DEAD)
    await held.tick(DEAD_TTL_S + 2)
    assert not await is_kept(held, number)


async def test_an_item_that_is_put_back_takes_it_along(held: HeldShard) -> None:
    number = await held.submit(callback=CALLBACK)
    await held.clients.cancel(number)
    due = held.shard.callbacks.entries[number]
    kept = await held.shard.callbacks.read(due, 0)
    assert kept is not None
    await held.clients.retry(number)
    assert due.gone
    assert not held.shard.callbacks.entries
    await held.shard.callbacks.settle(due, kept, replace(kept.record, state=CallbackState.DELIVERED))
    assert (await record(held, number)).state is CallbackState.WAITS
    assert await held.shard.callbacks.read(due, 0) is None
    await held.clients.cancel(number)
    found = await record(held, number)
    assert (found.state, found.round) == (CallbackState.DUE, 2)
    await held.shard.callbacks.settle(due, kept, replace(kept.record, state=CallbackState.DELIVERED))
    assert (await record(held, number)).state is CallbackState.DUE, "an outcome of the first end is not of the second"


async def test_an_outcome_waits_for_an_item_that_is_being_put_back(held: HeldShard) -> None:
    number = await held.submit(callback=CALLBACK)
    await held.clients.cancel(number)
    callbacks = held.shard.callbacks
    due = callbacks.entries[number]
    kept = await callbacks.read(due, 0)
    assert kept is not None
    held.shard.claimed.add(number)
    settling = asyncio.create_task(callbacks.settle(due, kept, replace(kept.record, state=CallbackState.DELIVERED)))
    with pytest.raises(Conflict):
        await callbacks.retry(number)
    await asyncio.sleep(0)
    await held.settle()
    assert (await record(held, number)).state is CallbackState.DUE
    held.shard.claimed.discard(number)  # it could not be written
    await settling
    assert (await record(held, number)).state is CallbackState.DELIVERED
    with pytest.raises(FailedPrecondition, match="is DELIVERED"):
        await callbacks.retry(number)


async def test_an_outcome_that_cannot_be_written_is_written_again(
    held: HeldShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = await ended(held)
    real = held.shard.journal.write
    refused: list[int] = []

    def full(changes, then):
        if len(refused) < 2:
            refused.append(number)
            real([], lambda _: then([Unavailable("the disk")]))
        else:
            real(changes, then)

    monkeypatch.setattr(held.shard.journal, "write", full)
    monkeypatch.setattr("serving.broker.callbacks.due._AGAIN_S", 0.01)
    await sent(held, number, CallbackState.DELIVERED)
    assert len(refused) == 2
    assert (await record(held, number)).state is CallbackState.DELIVERED


async def test_what_is_due_is_known_after_a_crash_and_a_move(held: HeldShard, tmp_path: Path) -> None:
    waits, due, dead, delivered = [await held.submit(callback=CALLBACK) for _ in range(4)]
    for number in (due, dead, delivered):
        await held.clients.cancel(number)
    await sent(held, due, CallbackState.DUE)
    await sent(held, dead, CallbackState.DEAD)
    await sent(held, delivered, CallbackState.DELIVERED)
    found = await held.reborn(tmp_path / "j2.sqlite")
    assert {number: (one.receiver, one.at) for number, one in found.shard.callbacks.entries.items()} == {
        due: ("a.org:443", 1e9)
    }
    assert found.shard.callbacks.totals == records.Totals(1, held.clock.now())
    states = [(await record(found, number)).state for number in (waits, due, dead, delivered)]
    assert states == [CallbackState.WAITS, CallbackState.DUE, CallbackState.DEAD, CallbackState.DELIVERED]
    await found.close()


async def test_many_are_recovered_and_listed_by_pages(held: HeldShard, tmp_path: Path) -> None:
    numbers = sorted(await asyncio.gather(*(held.submit(callback=CALLBACK) for _ in range(2500))))
    await asyncio.gather(*(held.clients.cancel(number) for number in numbers))
    found = await held.reborn(tmp_path / "j2.sqlite")
    assert sorted(found.shard.callbacks.entries) == numbers
    listed: list[int] = []
    after: int | None = 0
    while after is not None:
        page, after = await found.shard.callbacks.page(CallbackState.DUE, after, 1000)
        listed += [kept.item.number for kept in page]
    assert listed == numbers
    await found.close()


async def test_only_ends_that_are_wanted_are_told(held: HeldShard) -> None:
    only_dead = replace(CALLBACK, states=frozenset({State.DEAD}))
    number = await ended(held, only_dead)
    assert not held.shard.callbacks.entries
    assert (await record(held, number)).state is CallbackState.UNWANTED
    await held.tick(TTL_S + 2)
    assert not await is_kept(held, number)


async def test_it_counts_among_what_is_kept(held: HeldShard) -> None:
    await held.submit(b"body", callback=CALLBACK)
    assert held.shard.journal.bytes == ROW_BYTES + 4 + CALLBACK_BYTES + len(CALLBACK.url)


async def test_one_that_is_due_is_hastened(held: HeldShard) -> None:
    number = await ended(held)
    await sent(held, number, CallbackState.DUE)
    assert held.shard.callbacks.entries[number].at == 1e9
    told: list[Due] = []
    held.shard.callbacks.on_due = told.append
    await held.shard.callbacks.retry(number)
    assert [due.at for due in told] == [held.clock.now()]
    held.shard.callbacks.entries[number].at = NEVER  # it is being sent
    await held.shard.callbacks.retry(number)
    assert len(told) == 1
    with pytest.raises(NotFound):
        await held.shard.callbacks.retry(await ended(held, None))
    await eventually_async(lambda: not held.shard.claimed, what="no claim is left")


async def test_a_journal_that_is_released_is_let_go_of(held: HeldShard) -> None:
    """Its next tries may be hours away."""
    deliveries = Deliveries(held.settings, held.clock, lambda *_: None)
    try:
        deliveries.opened(held.shard)
        number = await ended(held)
        due = held.shard.callbacks.entries[number]
        assert deliveries._agenda.next_at() == due.at
        deliveries.released(held.shard)
        assert due.gone
        assert not deliveries._agenda._lines, "it would keep the shard"
        assert deliveries._agenda.next_at() is None
    finally:
        await deliveries.close()
