"""A wait with a limit: results, errors, the limit itself, and a cancellation that comes together with the result."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable

import pytest

from serving.timeouts import cancel_and_wait, cancelled_by_owner, interruptible, unbroken, wait_for


async def test_it_gives_what_the_awaitable_gives() -> None:
    assert await wait_for(asyncio.sleep(0, "done"), 10) == "done"
    assert await wait_for(asyncio.sleep(0, "done"), None) == "done"
    future = asyncio.get_running_loop().create_future()
    future.set_result(3)
    assert await wait_for(future, 0) == 3


def _soon(call: Callable[..., object], *arguments: object) -> None:
    asyncio.get_running_loop().call_soon(call, *arguments)


async def test_a_block_is_left_with_the_first_error_that_interrupts_it() -> None:
    steps: list[str] = []

    async def block() -> None:
        with interruptible() as interrupt:
            _soon(interrupt, ValueError("first"))
            _soon(interrupt, ValueError("second"))
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.01)  # what is given back meanwhile is not torn out of it
                steps.append("given back")

    with pytest.raises(ValueError, match="first"):
        await block()
    assert steps == ["given back"]
    await asyncio.sleep(0)  # nothing of the cancellation is left


async def test_a_block_that_ends_by_itself_is_not_interrupted_any_more() -> None:
    with interruptible() as interrupt:
        await asyncio.sleep(0)
    interrupt(ValueError("late"))
    await asyncio.sleep(0)
    with pytest.raises(KeyError), interruptible():
        raise KeyError("its own")


async def test_a_block_that_is_interrupted_before_it_waits_begins_all_the_same() -> None:
    begun: list[str] = []

    async def block() -> None:
        with interruptible() as interrupt:
            interrupt(ValueError("told"))
            begun.append("yes")
            await asyncio.sleep(0)
            begun.append("no")

    with pytest.raises(ValueError, match="told"):
        await block()
    assert begun == ["yes"]


async def test_a_block_that_interrupts_itself_and_never_waits_leaves_nothing_behind() -> None:
    with pytest.raises(ValueError, match="told"), interruptible() as interrupt:
        interrupt(ValueError("told"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_a_block_that_takes_the_cancellation_for_its_own_is_interrupted_all_the_same() -> None:
    async def block() -> None:
        with interruptible() as interrupt:
            _soon(interrupt, ValueError("told"))
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            await asyncio.sleep(0)

    with pytest.raises(ValueError, match="told"):
        await block()
    await asyncio.sleep(0)


async def test_an_interrupted_block_may_wait_with_limits_of_its_own() -> None:
    """A limit inside must not take the cancellation for its own, nor this one the limit's."""

    async def block() -> None:
        with interruptible() as interrupt:
            _soon(interrupt, ValueError("told"))
            await wait_for(asyncio.Event().wait(), 60)

    with pytest.raises(ValueError, match="told"):
        await block()
    with pytest.raises(asyncio.TimeoutError), interruptible():
        await wait_for(asyncio.Event().wait(), 0.001)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 cannot tell one cancellation from another")
async def test_who_is_cancelled_while_interrupted_is_cancelled() -> None:
    async def waits() -> None:
        with interruptible() as interrupt:
            _soon(interrupt, ValueError("told"))
            _soon(task.cancel)
            await asyncio.Event().wait()

    task = asyncio.create_task(waits())
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_who_waits_for_what_it_cancelled_does_not_cancel_it_again() -> None:
    """Else a task would be torn out of giving back what it holds, as `asyncio.gather` has it."""
    steps: list[str] = []

    async def holds() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            steps.append("given back")

    held = asyncio.create_task(holds())
    await asyncio.sleep(0)
    waits = asyncio.create_task(cancel_and_wait(held))
    await asyncio.sleep(0)
    waits.cancel()
    await asyncio.wait({waits, held})
    assert waits.cancelled()
    assert steps == ["given back"]


async def test_what_ends_with_an_error_is_waited_for_too() -> None:
    async def fails() -> None:
        raise ValueError("no")

    task = asyncio.create_task(fails())
    await asyncio.sleep(0)
    await cancel_and_wait(task)
    await cancel_and_wait()
    assert isinstance(task.exception(), ValueError)


async def test_it_is_known_whether_a_task_was_cancelled_or_what_it_waited_for() -> None:
    async def asks(future: asyncio.Future[None]) -> bool:
        try:
            await future
        except asyncio.CancelledError:
            return cancelled_by_owner(unknown=False)
        raise AssertionError("was not cancelled")

    loop = asyncio.get_running_loop()
    other = loop.create_future()
    task = asyncio.create_task(asks(other))
    await asyncio.sleep(0)
    other.cancel()
    assert not await task
    task = asyncio.create_task(asks(loop.create_future()))
    await asyncio.sleep(0)
    task.cancel()
    assert await task or sys.version_info < (3, 11)


async def test_it_raises_what_the_awaitable_raises() -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await wait_for(fails(), 10)


@pytest.mark.parametrize("timeout_s", [-1, 0, 0.01])
async def test_the_limit_ends_what_runs(timeout_s: float) -> None:
    ended = asyncio.Event()

    async def runs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(asyncio.TimeoutError):
        await wait_for(runs(), timeout_s)
    assert ended.is_set()


@pytest.mark.parametrize("turns", range(4))
async def test_a_cancellation_that_comes_with_the_result_is_not_lost(turns: int) -> None:
    happens = asyncio.Event()
    rounds = 0

    async def goes_on() -> None:
        nonlocal rounds
        while rounds < 100:
            await wait_for(happens.wait(), 60)
            rounds += 1
            happens.clear()

    task = asyncio.create_task(goes_on())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    happens.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=60)
    assert task.cancelled()
    assert rounds <= 1


async def test_a_step_that_is_not_to_be_broken_ends_before_its_cancellation_arrives() -> None:
    go_on = asyncio.Event()
    undone: list[str] = []

    async def step() -> str:
        await go_on.wait()
        return "given"

    async def undo(given: str) -> None:
        await asyncio.sleep(0)
        undone.append(given)

    waits = asyncio.create_task(unbroken(step(), undo))
    for _ in range(3):  # also when it is asked again
        await asyncio.sleep(0)
        waits.cancel()
    await asyncio.sleep(0)
    assert not waits.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await waits
    assert undone == ["given"]


async def test_what_a_step_fails_with_stands_behind_its_cancellation() -> None:
    async def step() -> None:
        await asyncio.sleep(0.01)
        raise ValueError("it fails")

    causes: list[BaseException | None] = []

    async def wait() -> None:
        try:
            await unbroken(step(), lambda _: pytest.fail("there is nothing to undo"))
        except asyncio.CancelledError as cancelled:
            causes.append(cancelled.__cause__)
            raise

    waits = asyncio.create_task(wait())
    await asyncio.sleep(0)
    await cancel_and_wait(waits)
    assert waits.cancelled()
    assert [str(cause) for cause in causes] == ["it fails"]


async def test_a_step_that_nobody_breaks_gives_what_it_gives() -> None:
    async def fails() -> None:
        raise ValueError("it fails")

    assert await unbroken(asyncio.sleep(0, "given"), lambda _: pytest.fail("there is nothing to undo")) == "given"
    with pytest.raises(ValueError, match="it fails"):
        await unbroken(fails())
