"""Runners at a real etcd that make room, hear of cancels, and say when they are not well."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from serving.batch.orders.claims import claim
from serving.batch.orders.view import word_of
from serving.batch.runner import attempts, schedule
from serving.batch.runner import taking as runner_taking
from serving.batch.runner.job import Halt
from serving.batch.runner.taking import Runner
from serving.control import Backoff
from tests.support.runner_taking import Script, Taking, begun
from tests.support.waiting import aeventually, eventually_async


class Looks:
    """How often a full runner looked whether one of its batches should make room."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0

        def displaced(*args: Any, **kwargs: Any) -> schedule.Candidate | None:
            self.count += 1
            return schedule.displaced(*args, **kwargs)

        monkeypatch.setattr(runner_taking, "displaced", displaced)

    async def more(self, number: int) -> None:
        until = self.count + number
        await eventually_async(lambda: self.count >= until, what="the runner has looked")


@pytest.fixture
def no_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches may be put back as soon as they run."""
    monkeypatch.setattr(schedule, "SLICE_S", 0.0)


@pytest.mark.usefixtures("no_slices")
async def test_a_batch_makes_room_for_one_that_has_waited(taking: Taking, monkeypatch: pytest.MonkeyPatch) -> None:
    looks, script = Looks(monkeypatch), Script()
    runner = await taking.runner("r1", script)
    first = [await taking.order() for _ in range(2)]
    await aeventually(lambda: asyncio.sleep(0, script.began), what="one runs")
    monkeypatch.setattr(runner_taking, "PRESSES_S", 3600.0)
    other = await taking.order(tenant="b")
    await looks.more(3)
    assert script.stopped == [], "it has not waited long"
    monkeypatch.setattr(runner_taking, "PRESSES_S", 0.0)
    await eventually_async(lambda: other.id in script.began, what="it has its turn")
    assert script.stopped[0] in [one.id for one in first]
    assert runner.failure() == ""


@pytest.mark.usefixtures("no_slices")
async def test_no_batch_makes_room_for_one_that_fails_here(taking: Taking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_taking, "PRESSES_S", 0.0)
    monkeypatch.setattr(attempts, "_REST", Backoff(first_s=3600.0, limit_s=3600.0, jitter=0.0))
    looks, script = Looks(monkeypatch), Script(fail="the disk is away")
    broken = await taking.order(tenant="b")
    runner = await taking.runner("r1", script)
    await eventually_async(lambda: script.began == [broken.id], what="it was tried")
    await asyncio.wait_for(runner.wait_idle(), 60)
    script.fail = ""
    healthy = await taking.order()
    await begun(taking, healthy)
    await looks.more(5)
    assert (script.began, script.stopped) == ([broken.id, healthy.id], [])


async def test_a_cancel_that_comes_with_the_claim_is_heard(taking: Taking, monkeypatch: pytest.MonkeyPatch) -> None:
    runners: list[Runner] = []

    async def claim_and_cancel(store: Any, batch: Any, **who: Any) -> Any:
        claimed = await claim(store, batch, **who)
        name = batch.namespace, batch.id
        await taking.book.cancel(*name, time.time())
        board = runners[0]._board

        def seen() -> bool:
            found = board.get(name)
            return found is not None and found.cancel is not None

        await eventually_async(seen, what="the board shows the cancel")
        return claimed

    monkeypatch.setattr(runner_taking, "claim", claim_and_cancel)
    script = Script(away=True)  # so that nothing is written of the batch: that would be a change, and looked at
    runners.append(await taking.runner("r1", script))
    batch = await taking.order()
    await taking.becomes(batch, "cancelled")
    assert script.published == [(batch.id, Halt.CANCELLED)]


async def test_a_runner_whose_loop_has_ended_is_not_well(taking: Taking, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = await taking.runner("r1", Script())
    assert runner.failure() == ""

    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(runner_taking, "in_turn", broken)
    await taking.order()
    reason = await eventually_async(runner.failure, what="it says so")
    assert reason == "runner-take has ended: RuntimeError('a bug')"


async def test_a_job_that_ignores_its_end_makes_the_runner_unwell(
    taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_taking, "_STUCK_S", 0.5)
    script = Script(deaf=True)
    runner = await taking.runner("r1", script)
    batch = await taking.order(window_s=12)
    reason = await eventually_async(runner.failure, what="it says so")
    assert reason == f"the job of batch {batch.id} does not stop"
    assert word_of(await taking.now(batch), time.time()) == "in_progress"
    script.go.set()
    await asyncio.wait_for(runner.wait_idle(), 60)
    assert runner.failure() == ""
