"""The loop: one run per key at a time, retries, timers, faults, and an end that finishes what runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from serving.control import Backoff, Controller, Done, GiveUp, LookAgain, ManualClock, Outcome, Retry, running_key
from serving.errors import FailedPrecondition, InvalidArgument

EXACT = Backoff(first_s=1.0, limit_s=8.0, jitter=0.0)


async def until(condition: Callable[[], bool]) -> None:
    """Lets the loop turn until something is true; the test's own time limit ends what never is."""
    while not condition():  # noqa: ASYNC110 - the condition has no event
        await asyncio.sleep(0)


async def settled(controller: Controller[Any]) -> None:
    """Until nothing can run and the worker sleeps."""
    await until(lambda: controller.stats.waiting == 0 and controller.stats.running == 0)
    for _ in range(10):
        await asyncio.sleep(0)


@asynccontextmanager
async def running(controller: Controller[Any]) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(controller.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Recorder:
    """A reconcile whose outcomes are given, and that notes when it ran."""

    def __init__(self, clock: ManualClock, outcomes: list[Outcome | Exception]) -> None:
        self.clock = clock
        self.outcomes = outcomes
        self.at_s: list[float] = []
        self.start_s = clock.monotonic()

    async def __call__(self, _key: str) -> Outcome:
        self.at_s.append(self.clock.monotonic() - self.start_s)
        outcome = self.outcomes.pop(0) if self.outcomes else Done()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def run_for(clock: ManualClock, controller: Controller[Any], seconds: int) -> None:
    for _ in range(seconds):
        await settled(controller)
        clock.advance(1.0)
    await settled(controller)


async def test_a_key_that_fails_backs_off_and_starts_over_after_a_success() -> None:
    clock = ManualClock()
    recorder = Recorder(clock, [Retry("a"), ValueError("b"), Retry("c"), Retry("d"), Retry("e"), Done(), Retry("f")])
    controller: Controller[str] = Controller("test", recorder, clock=clock, backoff=EXACT)
    controller.wake("k")
    async with running(controller):
        await run_for(clock, controller, 40)
        assert recorder.at_s == [0, 1, 3, 7, 15, 23]  # 1, 2, 4, 8, then the limit
        controller.wake("k")
        await run_for(clock, controller, 5)
    assert recorder.at_s == [0, 1, 3, 7, 15, 23, 40, 41]
    assert controller.stats.runs == {"retry": 5, "error": 1, "done": 2}
    assert controller.stats.failing == 0


async def test_look_again_runs_again_at_its_time_and_a_wake_comes_before() -> None:
    clock = ManualClock()
    recorder = Recorder(clock, [LookAgain(10.0), LookAgain(10.0), Done()])
    controller: Controller[str] = Controller("test", recorder, clock=clock)
    controller.wake("k")
    async with running(controller):
        await run_for(clock, controller, 4)
        controller.wake("k")
        await run_for(clock, controller, 30)
    assert recorder.at_s == [0, 4, 14]


async def test_give_up_waits_for_a_wake() -> None:
    clock = ManualClock()
    recorder = Recorder(clock, [GiveUp("no")])
    controller: Controller[str] = Controller("test", recorder, clock=clock)
    controller.wake("k")
    async with running(controller):
        await run_for(clock, controller, 100)
        assert recorder.at_s == [0]
        controller.wake("k")
        await run_for(clock, controller, 1)
    assert recorder.at_s == [0, 100]


async def test_one_key_never_runs_twice_at_a_time_and_different_keys_do() -> None:
    active: dict[str, int] = {}
    most: dict[str, int] = {}
    runs: dict[str, int] = {}
    together = 0

    async def reconcile(key: str) -> Outcome:
        nonlocal together
        active[key] = active.get(key, 0) + 1
        runs[key] = runs.get(key, 0) + 1
        most[key] = max(most.get(key, 0), active[key])
        together = max(together, sum(active.values()))
        await asyncio.sleep(0.001)
        active[key] -= 1
        return Done()

    controller: Controller[str] = Controller("test", reconcile, workers=3)
    async with running(controller):
        for _ in range(20):
            for key in "abcde":
                controller.wake(key)
            await asyncio.sleep(0.002)
        await until(lambda: controller.stats.waiting == controller.stats.running == 0)
    assert set(most.values()) == {1}
    assert together == 3
    assert all(count <= 21 for count in runs.values())


async def test_a_wake_during_a_run_is_not_lost() -> None:
    seen: list[int] = []
    state = 1
    controller: Controller[str]

    async def reconcile(_key: str) -> Outcome:
        nonlocal state
        seen.append(state)
        if state == 1:
            state = 2
            controller.wake("k")
        return Done()

    controller = Controller("test", reconcile)
    controller.wake("k")
    async with running(controller):
        await until(lambda: len(seen) == 2)
    assert seen == [1, 2]


async def test_the_end_lets_what_runs_finish() -> None:
    gate = asyncio.Event()
    finished: list[str] = []

    async def reconcile(key: str) -> Outcome:
        await gate.wait()
        finished.append(key)
        return Done()

    controller: Controller[str] = Controller("test", reconcile)
    controller.wake("a")
    controller.wake("b")
    task = asyncio.create_task(controller.run())
    await until(lambda: controller.stats.running == 1)
    task.cancel()
    await asyncio.sleep(0)
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert finished == ["a"]  # "b" was not begun any more
    async with running(controller):  # and is not forgotten
        await until(lambda: finished == ["a", "b"])


async def test_what_does_not_end_in_time_is_cancelled_and_runs_again_next_time() -> None:
    starts = 0

    async def reconcile(_key: str) -> Outcome:
        nonlocal starts
        starts += 1
        if starts == 1:
            await asyncio.Event().wait()
        return Done()

    controller: Controller[str] = Controller("test", reconcile, stop_grace_s=0.01)
    controller.wake("a")
    task = asyncio.create_task(controller.run())
    await until(lambda: starts == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with running(controller):
        await until(lambda: starts == 2)


async def test_one_that_is_cancelled_twice_can_run_again() -> None:
    starts, holds = 0, asyncio.Event()

    async def reconcile(_key: str) -> Outcome:
        nonlocal starts
        starts += 1
        if starts == 1:
            await holds.wait()
        return Done()

    controller: Controller[str] = Controller("test", reconcile)
    controller.wake("a")
    task = asyncio.create_task(controller.run())
    await until(lambda: starts == 1)
    task.cancel()
    await asyncio.sleep(0)  # it waits for the run to end
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with running(controller):
        await until(lambda: starts == 2)


async def test_faults_are_logged_with_their_key(caplog: pytest.LogCaptureFixture) -> None:
    async def reconcile(_key: str) -> Outcome:
        logging.getLogger("inside").warning("in %s", running_key.get())
        raise KeyError("broken")

    controller: Controller[str] = Controller("test", reconcile)
    controller.wake("default/digits")
    async with running(controller):
        await until(lambda: controller.stats.runs["error"] == 1)
    failed = next(record for record in caplog.records if record.message == "reconcile failed")
    assert vars(failed)["key"] == "default/digits"
    assert failed.exc_info is not None
    assert "in test default/digits" in caplog.messages
    assert running_key.get() == ""


async def test_a_run_that_takes_too_long_is_retried() -> None:
    async def reconcile(_key: str) -> Outcome:
        await asyncio.Event().wait()
        return Done()

    controller: Controller[str] = Controller(
        "test", reconcile, timeout_s=0.01, backoff=Backoff(first_s=0.01, limit_s=0.01)
    )
    controller.wake("k")
    async with running(controller):
        await until(lambda: controller.stats.runs["error"] >= 2)
    assert controller.stats.failing == 1


async def test_a_cancellation_from_inside_is_a_fault_not_the_end() -> None:
    async def reconcile(_key: str) -> Outcome:
        raise asyncio.CancelledError

    controller: Controller[str] = Controller("test", reconcile, clock=ManualClock())
    controller.wake("k")
    async with running(controller) as task:
        await until(lambda: controller.stats.runs["error"] == 1)
        assert not task.done()


async def test_a_reconcile_that_never_waits_does_not_starve_the_loop() -> None:
    async def reconcile(_key: str) -> Outcome:
        return LookAgain(0.0)

    controller: Controller[str] = Controller("test", reconcile)
    controller.wake("k")
    async with running(controller):
        await until(lambda: controller.stats.runs["look_again"] > 2)


async def test_senseless_use_is_refused() -> None:
    async def reconcile(_key: str) -> Outcome:
        return Done()

    with pytest.raises(InvalidArgument, match="at least one worker"):
        Controller("test", reconcile, workers=0)
    controller: Controller[str] = Controller("test", reconcile)
    async with running(controller):
        await asyncio.sleep(0)
        with pytest.raises(FailedPrecondition, match="runs already"):
            await controller.run()


async def test_a_manual_clock_wakes_in_order() -> None:
    clock = ManualClock(100.0)
    woken: list[tuple[int, float]] = []

    async def sleeper(number: int, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((number, clock.now()))

    waits: list[Awaitable[None]] = [
        asyncio.create_task(sleeper(number, seconds)) for number, seconds in enumerate([3.0, 1.0, 2.0, 0.0])
    ]
    await until(lambda: clock.sleepers == 3 and bool(woken))
    assert woken == [(3, 100.0)]
    assert clock.next_wake_s() == 101.0
    clock.advance(2.5)
    await until(lambda: len(woken) == 3)
    assert woken[1:] == [(1, 102.5), (2, 102.5)]
    clock.advance(0.5)
    await asyncio.gather(*waits)
    assert woken[-1] == (0, 103.0)
    assert clock.next_wake_s() is None
