"""A wait with a limit: results, errors, the limit itself, and a cancellation that comes together with the result."""

from __future__ import annotations

import asyncio
import sys

import pytest

from serving.timeouts import cancel_and_wait, cancelled_by_owner, wait_for


async def test_it_gives_what_the_awaitable_gives() -> None:
    assert await wait_for(asyncio.sleep(0, "done"), 10) == "done"
    assert await wait_for(asyncio.sleep(0, "done"), None) == "done"
    future = asyncio.get_running_loop().create_future()
    future.set_result(3)
    assert await wait_for(future, 0) == 3


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
