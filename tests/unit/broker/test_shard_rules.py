"""What happens to items, rule by rule: a shard over a real journal, on a clock that the test moves."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from serving.broker.items import Item, State
from serving.broker.limits import BrokerFull
from serving.control.clock import ManualClock
from serving.errors import FailedPrecondition, MeshError, NotFound, ResourceExhausted
from tests.support.redis_shards import RedisShard
from tests.support.shards import HeldShard

LEASE_S = 15.0
Make = Callable[..., Any]


@pytest.fixture(params=[HeldShard, RedisShard])
async def make(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    made: list[HeldShard] = []

    async def opened(**changes: Any) -> HeldShard:
        made.append(await request.param(tmp_path / "j1.sqlite", ManualClock(), **changes).open())
        return made[-1]

    yield opened
    for one in made:
        await one.close()


async def started(held: HeldShard, replica: str = "r", process: str = "p") -> Item:
    item = await held.start(replica, process)
    assert item is not None
    assert item.state is State.RUNNING
    return item


async def state(held: HeldShard, number: int) -> Item:
    item, _ = await held.clients.get(number)
    return item


async def again(held: HeldShard, item: Item, *, untouched: bool = False) -> None:
    held.shard.again(item.number, item.attempt, "full", lambda _: None, untouched=untouched)
    await held.settle()


# ---------------------------------------------------------------------------------------------------- attempts


async def test_only_the_attempt_that_runs_stores_a_result(make: Make) -> None:
    held = await make()
    number = await held.submit()
    first = await started(held)
    await again(held, first)
    second = await started(held, "other")
    assert (first.attempt, second.attempt) == (1, 2)
    assert not await held.done(number, 1, b"late")
    assert not held.shard.progress(number, 1, 0.5, [(0, b"late")])
    assert await held.done(number, 2, b"right")
    assert not await held.done(number, 2, b"twice")
    assert await held.clients.get(number) == (await state(held, number), b"right")


async def test_the_dead_letters_say_why(make: Make) -> None:
    held = await make(max_attempts=2)
    number = await held.submit()
    for _ in range(2):
        await again(held, await started(held))
    item = await state(held, number)
    assert item.state is State.DEAD
    assert item.reason == "2 attempts were made, the last: full"
    assert held.shard.queues.dead["it"] == 1
    assert held.stopped == [], "its replica has given it back: there is nothing to stop"

    found, _ = await held.clients.retry(number)
    assert (found.state, found.attempts, found.reason) == (State.QUEUED, 0, "")
    assert held.shard.queues.dead["it"] == 0
    assert (await started(held)).attempt == 3, "attempts are forgotten, but what fences them only grows"


async def test_what_comes_back_untouched_does_not_count(make: Make) -> None:
    held = await make(max_attempts=1)
    number = await held.submit()
    for _ in range(5):
        await again(held, await started(held), untouched=True)
    item = await state(held, number)
    assert (item.state, item.attempts, item.attempt) == (State.QUEUED, 0, 5)


# ---------------------------------------------------------------------------------------------------- leases


async def test_a_lease_ends_without_progress_and_lasts_with_it(make: Make) -> None:
    held = await make()
    number = await held.submit()
    item = await started(held)
    for _ in range(10):
        await held.tick(LEASE_S - 1)
        assert held.shard.progress(number, item.attempt, 0.5, [])
    assert (await state(held, number)).state is State.RUNNING
    await held.tick(LEASE_S + 1)
    assert (await state(held, number)).state is State.QUEUED
    assert held.stopped == [("r", f"j1.{number}", 1)]
    assert not held.shard.progress(number, item.attempt, 0.5, [])


async def test_a_process_that_stood_still_takes_no_leases(make: Make) -> None:
    held = await make()
    number = await held.submit()
    await started(held)
    held.upkeep.tick()
    held.clock.advance(10 * LEASE_S)  # nobody could hear what replicas said meanwhile
    held.upkeep.tick()
    await held.settle()
    assert (await state(held, number)).state is State.RUNNING


async def test_what_a_replica_names_goes_on_and_the_rest_goes_back(make: Make) -> None:
    held = await make()
    numbers = [await held.submit() for _ in range(3)]
    items = [await started(held) for _ in numbers]
    named = {(items[0].number, items[0].attempt), (items[1].number, items[1].attempt + 1), (99, 1)}
    lost = held.shard.hold("r", "p", named)
    await held.settle()
    assert lost == {(items[1].number, items[1].attempt + 1), (99, 1)}
    assert [(await state(held, number)).state for number in numbers] == [State.RUNNING, State.QUEUED, State.QUEUED]


async def test_another_process_of_the_replica_has_nothing(make: Make) -> None:
    held = await make()
    number = await held.submit()
    item = await started(held)
    assert held.shard.hold("r", "new", {(number, item.attempt)}) == {(number, item.attempt)}
    await held.settle()
    found = await state(held, number)
    assert (found.state, found.reason) == (State.QUEUED, "replica r was started again")


async def test_a_replica_that_left_gives_all_back_at_once(make: Make) -> None:
    held = await make()
    numbers = [await held.submit() for _ in range(2)]
    await started(held)
    await started(held, "stays")
    held.shard.replica_left("r", "replica r is gone")
    await held.settle()
    assert [(await state(held, number)).state for number in numbers] == [State.QUEUED, State.RUNNING]


async def test_leases_begin_anew_where_a_journal_is_opened(make: Make) -> None:
    held = await make()
    number = await held.submit()
    item = await started(held)
    await held.tick(LEASE_S - 1)
    await held.close()
    held = await held.again()
    await held.tick(LEASE_S - 1)
    assert held.shard.hold("r", "p", {(number, item.attempt)}) == set()
    assert await held.done(number, item.attempt)
    await held.close()


# ---------------------------------------------------------------------------------------------------- ends


async def test_deadlines_before_and_during_the_run(make: Make) -> None:
    held = await make()
    runs = await held.submit(deadline=held.clock.now() + 5)
    await started(held)
    waits = await held.submit(deadline=held.clock.now() + 5)
    await held.tick(6)
    assert (await state(held, waits)).reason == "its deadline passed before it was started"
    assert (await state(held, runs)).reason == "its deadline passed while it ran"
    assert {(await state(held, number)).state for number in (runs, waits)} == {State.EXPIRED}
    assert held.stopped == [("r", f"j1.{runs}", 1)]
    assert await held.start() is None


async def test_cancelled_while_it_waits_and_while_it_runs(make: Make) -> None:
    held = await make()
    runs, waits = await held.submit(), await held.submit()
    await started(held)
    for number in (runs, waits, runs):
        item, _ = await held.clients.cancel(number)
        assert item.state is State.CANCELLED
    assert held.stopped == [("r", f"j1.{runs}", 1)]
    assert not await held.done(runs, 1)
    assert held.shard.limits.items == 0


async def test_cancelled_while_it_starts(make: Make) -> None:
    held = await make()
    number = await held.submit()
    assert await held.start_next() is not None
    item, _ = await held.clients.cancel(number)
    await held.settle()
    assert item.state is State.CANCELLED
    assert await held.start() is None


async def test_what_has_an_answer_is_not_tried_again(make: Make) -> None:
    held = await make()
    number = await held.submit()
    await held.done(number, (await started(held)).attempt)
    with pytest.raises(FailedPrecondition, match="has SUCCEEDED"):
        await held.clients.retry(number)
    with pytest.raises(NotFound):
        await held.clients.retry(number + 1)


async def test_results_are_forgotten_after_their_time(make: Make) -> None:
    held = await make(result_ttl_s=10.0, dead_ttl_s=50.0, max_attempts=1)
    usual, longer, dead = await held.submit(), await held.submit(ttl_s=30.0), await held.submit(key="again")
    for _ in range(2):
        item = await started(held)
        await held.done(item.number, item.attempt)
    await again(held, await started(held))
    kept = held.shard.journal.items
    for seconds, gone in ((15, [usual]), (20, [usual, longer]), (30, [usual, longer, dead])):
        await held.tick(seconds)
        for number in gone:
            with pytest.raises(NotFound):
                await held.clients.get(number)
        assert held.shard.journal.items == kept - len(gone)
    assert held.shard.journal.bytes == 0
    assert held.shard.empty
    assert await held.submit(key="again") == dead + 1, "a number is never given twice, a key that is forgotten is new"


# ---------------------------------------------------------------------------------------------------- bounds


async def test_limits_are_named_and_end_with_the_items(make: Make) -> None:
    held = await make(max_items=3, max_tenant_items=2, max_tenant_bytes=1000)
    first = await held.submit(tenant="t")
    with pytest.raises(BrokerFull, match="bytes"):
        await held.submit(b"x" * 997, tenant="t")
    await held.submit(tenant="t")
    with pytest.raises(BrokerFull, match="tenant 't'") as caught:
        await held.submit(tenant="t")
    assert caught.value.retry_after_ms > 0
    await held.submit(tenant="u")
    with pytest.raises(BrokerFull, match="3 items wait or run"):
        await held.submit(tenant="v")
    await held.clients.cancel(first)
    await held.submit(tenant="t")


async def test_what_has_ended_counts_for_its_tenant_until_its_time_is_over(make: Make) -> None:
    held = await make(max_tenant_bytes=2000, result_ttl_s=10.0, dead_ttl_s=10.0)
    number = await held.submit(tenant="t", ttl_s=100.0)
    await held.done(number, (await started(held)).attempt, b"x" * 1500)
    with pytest.raises(BrokerFull, match="1,800 bytes of tenant 't' have ended and are kept, of 2,000") as caught:
        await held.submit(b"x" * 300, tenant="t")
    assert caught.value.retry_after_ms >= 30_000
    await held.submit(b"x" * 300, tenant="u")
    await held.close()

    held = await held.again()
    with pytest.raises(BrokerFull, match="have ended and are kept"):
        await held.submit(b"x" * 300, tenant="t")
    await held.tick(101)
    await held.submit(b"x" * 300, tenant="t")
    await held.close()


async def test_a_retry_takes_the_place_of_itself(make: Make) -> None:
    held = await make(max_tenant_bytes=2000)
    number = await held.submit(b"x" * 1200, tenant="t")
    await held.clients.cancel(number)
    await held.submit(b"x" * 400, tenant="t")
    await held.clients.retry(number)
    await held.clients.cancel(number)
    await held.submit(b"x" * 100, tenant="t")
    with pytest.raises(BrokerFull, match="of tenant 't'"):
        await held.submit(b"x" * 100, tenant="t")


async def test_a_retry_that_is_refused_or_not_written_changes_nothing(make: Make) -> None:
    held = await make(max_tenant_bytes=2000, max_tenant_items=1)
    number = await held.submit(b"x" * 1200, tenant="t")
    await held.clients.cancel(number)
    live = await held.submit(tenant="t")
    with pytest.raises(BrokerFull, match="1 items of tenant 't'"):
        await held.clients.retry(number)
    await held.clients.cancel(live)
    held.shard.journal._writer.execute("PRAGMA query_only=ON")
    with pytest.raises(MeshError):
        await held.clients.retry(number)
    held.shard.journal._writer.execute("PRAGMA query_only=OFF")
    with pytest.raises(BrokerFull, match="1,804 bytes of tenant 't' have ended"):
        await held.submit(b"x" * 300, tenant="t")


async def test_a_full_disk_refuses_submits_and_keeps_outcomes_with_the_replica(make: Make) -> None:
    held = await make()
    number = await held.submit()
    item = await started(held)
    writer = held.shard.journal._writer
    (pages,) = writer.execute("PRAGMA page_count").fetchone()
    writer.execute(f"PRAGMA max_page_count={pages}")
    wanted = [(held.item(size_bytes=20_000), os.urandom(20_000)) for _ in range(50)]
    refused = [answer for answer in await held.clients.submit(wanted) if isinstance(answer, MeshError)]
    assert refused
    assert {type(error) for error in refused} == {ResourceExhausted}
    assert refused[0].message.startswith("the disk of the journal j1.")
    assert held.shard.limits.items == 1 + len(wanted) - len(refused)
    assert not await held.done(number, item.attempt, os.urandom(100_000)), "it is not confirmed"
    assert (await state(held, number)).state is State.RUNNING
    writer.execute("PRAGMA max_page_count=1000000")
    assert await held.done(number, item.attempt, b"said again")
    assert (await held.clients.get(number))[1] == b"said again"


async def test_what_could_not_start_starts_when_the_disk_takes_it(make: Make) -> None:
    held = await make()
    number = await held.submit()
    held.shard.journal._writer.execute("PRAGMA query_only=ON")
    assert await held.start_next() is not None
    await held.settle()
    assert held.shard.running == {}
    assert await held.start() is None, "nothing is started for a while"
    held.shard.journal._writer.execute("PRAGMA query_only=OFF")
    await held.tick(2)
    assert (await started(held)).number == number


async def test_a_result_reaches_those_who_wait(make: Make) -> None:
    held = await make()
    number = await held.submit()
    waiting = [asyncio.create_task(held.clients.get(number, 60.0)) for _ in range(3)]
    await held.done(number, (await started(held)).attempt, b"it")
    assert [result for _, result in await asyncio.gather(*waiting)] == [b"it"] * 3


async def test_times_are_learnt(make: Make) -> None:
    """What takes long is known to be long, by its labels, once enough have ended."""
    held = await make()
    for _ in range(6):
        for kind, seconds in (("short", 1), ("long", 100)):
            await held.submit(labels={"kind": kind})
            item = await started(held)
            held.clock.advance(seconds)
            await held.done(item.number, item.attempt)
    long = await held.submit(labels={"kind": "long"})
    short = await held.submit(labels={"kind": "short"})
    assert [(await started(held)).number for _ in range(2)] == [short, long]


async def test_an_item_whose_request_is_lost_is_dead_and_stops_no_other(make: Make) -> None:
    first = await make()
    lost, whole = await first.submit(), await first.submit()
    await first.close()
    first.lose_request(lost)
    held = await first.again()
    given: list[tuple[int, bytes | None]] = []
    batch = [running for _ in range(2) if (running := held.shard.take("it", 2, "r", "p")) is not None]
    held.shard.start(batch, lambda running, request: given.append((running.item.number, request)))
    await held.settle()
    assert sorted(given) == [(lost, None), (whole, b"body")]
    assert (await state(held, lost)).state is State.DEAD
    assert "not in the journal any more" in (await state(held, lost)).reason
    assert (await state(held, whole)).state is State.RUNNING
    await held.close()


async def test_looking_for_what_has_expired_keeps_no_journal(make: Make) -> None:
    """Who adopted an empty journal looks once a second whether it may go, and may do so in each second's upkeep."""
    held = await make()
    assert held.shard.empty
    held.upkeep.tick()
    assert held.shard.empty
    await held.settle()
    number = await held.submit()
    await held.clients.cancel(number)
    held.upkeep.tick()
    assert not held.shard.empty, "what is kept keeps it"
