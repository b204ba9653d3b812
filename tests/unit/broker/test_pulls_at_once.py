"""Items that a replica has room for when they are submitted: started in the commit of their submit."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serving.broker.items import State
from serving.broker.queue import DEFAULT, HIGH, LOW
from serving.broker.sketch import Quantiles
from tests.support.handed import BODY, Handed, sent


async def commits(handed: Handed) -> int:
    await handed.held.settle()
    return handed.held.shard.journal.commits.groups


async def test_what_a_replica_has_room_for_starts_with_the_commit_of_its_submit(handed: Handed) -> None:
    puller = handed.replica("r", 2)
    await asyncio.sleep(0)
    before = await commits(handed)
    number = await handed.held.submit(BODY)
    assert sent(puller) == [f"j1.{number}"]
    assert await commits(handed) == before + 1
    item, _ = await handed.held.clients.get(number)
    assert (item.state, item.attempt, item.attempts, item.replica, item.process) == (State.RUNNING, 1, 1, "r", "p")
    assert (puller.credits, puller.starting, puller.held) == (1, 0, {(f"j1.{number}", 1)})
    assert await handed.held.done(number, 1)


async def test_what_came_before_starts_before(handed: Handed) -> None:
    """Nothing passes what waits, nor what is on its way to the disk and will wait."""
    first = await handed.held.submit(BODY)
    second = asyncio.create_task(handed.held.submit(BODY))
    await asyncio.sleep(0)
    handed.held.shard.take("it", 1, "elsewhere", "p")  # nothing waits in the queue now, but the second one will
    puller = handed.replica("r", 2)  # one more may run beside that
    numbers = [await second, await handed.held.submit(BODY)]
    await asyncio.sleep(0)
    await handed.held._written()
    assert sent(puller) == [f"j1.{numbers[0]}"]
    assert [first, *numbers] == [1, 2, 3]
    handed.held.shard._put_back(handed.held.shard.running[first])
    await handed.held.settle()


async def test_each_of_one_write_has_a_place_or_waits(handed: Handed) -> None:
    one, other = handed.replica("one", 1), handed.replica("other", 2)
    wanted = [(handed.held.item(size_bytes=len(BODY)), BODY) for _ in range(5)]
    await handed.held.clients.submit(wanted)
    await handed.held.settle()
    assert (len(sent(one)), len(sent(other))) == (1, 2)
    queue = handed.held.shard.queues.by_deployment["it"]
    assert (len(queue), queue.running) == (2, 3)
    assert handed.held.shard.queues.counters("it").submitted == 5


async def started_of_one_write(handed: Handed, *wanted: dict[str, Any]) -> list[int]:
    """Which of them a replica gets at once, in order of their numbers: 1 is the first."""
    (puller,) = handed.pulls.pullers
    await handed.held.clients.submit([(handed.held.item(size_bytes=len(BODY), **one), BODY) for one in wanted])
    await handed.held.settle()
    return sorted(int(name.rpartition(".")[2]) for name in sent(puller))


async def test_of_one_write_the_highest_class_has_the_place(handed: Handed) -> None:
    handed.replica("r", 1)
    assert await started_of_one_write(handed, {"priority": LOW}, {"priority": DEFAULT}, {"priority": HIGH}) == [3]
    queue = handed.held.shard.queues.by_deployment["it"]
    assert (len(queue), queue.running) == (2, 1)


async def test_of_one_write_the_earliest_deadline_has_the_place(handed: Handed) -> None:
    handed.replica("r", 1)
    now = handed.held.clock.now()
    assert await started_of_one_write(handed, {"deadline": now + 90}, {"deadline": now + 60}, {}) == [2]


async def test_tenants_share_the_places_for_one_write(handed: Handed) -> None:
    handed.replica("r", 4)
    wanted = [{"tenant": "a"}] * 8 + [{"tenant": "b"}] * 2
    assert await started_of_one_write(handed, *wanted) == [1, 2, 9, 10]


async def test_the_rest_of_one_write_goes_in_its_order(handed: Handed) -> None:
    puller = handed.replica("r", 1)
    assert await started_of_one_write(handed, {"priority": LOW}, {"priority": HIGH}, {"priority": DEFAULT}) == [2]
    for number in (3, 1):
        handed.pulls.add_credits(puller, 1)
        await handed.hand_out(0)
        assert sent(puller)[-1] == f"j1.{number}"


async def test_each_item_counts_once_in_the_median_of_predictions(
    handed: Handed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is long is judged by it, whether items start at once, wait, or find no place at the first try."""
    counted: list[float] = []
    add = Quantiles.add
    queue = handed.held.shard.queues._queue("it")

    def heard(quantiles: Quantiles, seconds: float) -> None:
        if quantiles is queue._expected:
            counted.append(seconds)
        add(quantiles, seconds)

    monkeypatch.setattr(Quantiles, "add", heard)
    handed.replica("r", 3)
    handed.held.shard._paused_until = handed.held.clock.monotonic() + 1  # the disk did not take a start
    assert await started_of_one_write(handed, {"expected_s": 6.0}) == []
    assert counted == [6]
    handed.held.clock.advance(2)
    await handed.hand_out(0)
    assert await started_of_one_write(handed, *({"expected_s": float(number)} for number in range(1, 6))) == [1, 2, 3]
    assert sorted(counted) == [1, 2, 3, 4, 5, 6]


async def test_what_is_not_kept_is_not_started(handed: Handed) -> None:
    puller = handed.replica("r", 3)
    first = await handed.held.submit(BODY, key="k", new_key=True)
    assert (await handed.held.submit(BODY, key="k", new_key=True), sent(puller)) == (first, [f"j1.{first}"])
    await handed.held.settle()
    shard = handed.held.shard
    assert (puller.credits, puller.starting, shard.queues.by_deployment["it"].running) == (2, 0, 1)
    assert (list(shard.running), shard.limits.items) == ([first], 1)
    last = await handed.held.submit(BODY)
    assert sent(puller) == [f"j1.{first}", f"j1.{last}"]


async def test_a_replica_that_goes_meanwhile_leaves_it_to_another(handed: Handed) -> None:
    gone = handed.replica("gone", 1)
    submitting = asyncio.create_task(handed.held.submit(BODY))
    await asyncio.sleep(0)
    assert gone.starting == 1
    handed.pulls.close(gone)
    number = await submitting
    await handed.held.settle()
    assert sent(gone) == []
    other = handed.replica("other", 1)
    await handed.hand_out(0)
    assert sent(other) == [f"j1.{number}"]
    item, _ = await handed.held.clients.get(number)
    assert (item.attempt, item.attempts) == (2, 1)


async def test_what_is_cancelled_or_late_does_not_start(handed: Handed) -> None:
    puller = handed.replica("r", 2)
    submitting = asyncio.create_task(handed.held.submit(BODY))
    await asyncio.sleep(0)
    (number,) = handed.held.shard.running
    handed.held.shard.cancel(number, lambda: None)
    assert await submitting == number
    await handed.held.settle()
    assert (await handed.held.clients.get(number))[0].state is State.CANCELLED
    late = await handed.held.submit(BODY, deadline=handed.held.clock.now())
    assert late not in handed.held.shard.running
    assert (sent(puller), puller.credits, puller.starting) == (["stop"], 2, 0)
