"""A wait with a limit: results, errors, the limit itself, and a cancellation that comes together with the result."""

from __future__ import annotations

import asyncio

import pytest

from serving.timeouts import wait_for


async def test_it_gives_what_the_awaitable_gives() -> None:
    assert await wait_for(asyncio.sleep(0, "done"), 10) == "done"
    assert await wait_for(asyncio.sleep(0, "done"), None) == "done"
    future = asyncio.get_running_loop().create_future()
    future.set_result(3)
    assert await wait_for(future, 0) == 3


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
