"""Waiting without losing the cancellation of the one who waits, and without taking another one for it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

if sys.version_info >= (3, 11):
    from asyncio import timeout
else:
    from async_timeout import timeout

T = TypeVar("T")


async def wait_for(awaitable: Awaitable[T], timeout_s: float | None) -> T:
    """What the awaitable gives. Raises `asyncio.TimeoutError` after `timeout_s` seconds; None waits without an end.

    `asyncio.wait_for` before Python 3.12 forgets that its caller was cancelled when the awaitable has just finished
    (python/cpython#86296): a loop around it then goes on for ever, and whoever waits for it to stop, with it. Here the
    awaitable runs in the caller's own task, and a cancellation that comes with the result arrives. (On Python 3.10 one
    that comes in the very turn of the loop in which the limit passes still reads as the limit.)
    """
    async with timeout(timeout_s):
        return await awaitable


@contextmanager
def interruptible() -> Iterator[Callable[[Exception], None]]:
    """Gives what ends the block from elsewhere on the loop: its task is cancelled, and the block raises that error.

    The first one counts, and none after the block. A task for the block's work, cancelled from its own one, would do
    the same for three more turns of the loop. Whoever cancels the task itself at that moment is heard (on Python 3.10
    the error is raised then).
    """
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("only a task can be interrupted")
    before = _cancellations(task)
    reason: Exception | None = None
    done = False

    def interrupt(error: Exception) -> None:
        nonlocal reason
        if reason is not None or done:
            return
        reason = error
        if asyncio.current_task() is task:  # it would not hear of it before it waits, which may be after the block
            asyncio.get_running_loop().call_soon(cancel)
        else:
            task.cancel()

    def cancel() -> None:
        if not done:
            task.cancel()

    try:
        yield interrupt
    except BaseException as error:
        if reason is None or _take_back(task) > before:
            raise
        raise reason from error
    finally:
        done = True
    if reason is not None:  # the work ended all the same
        if _cancellations(task) > before:
            _take_back(task)
        raise reason


def _cancellations(task: asyncio.Task[Any]) -> int:
    """How often it was asked to end; 0 on Python 3.10, which does not count."""
    if sys.version_info < (3, 11):
        return 0
    return task.cancelling()


def _take_back(task: asyncio.Task[Any]) -> int:
    """One of these; gives the rest."""
    if sys.version_info < (3, 11):
        return 0
    return task.uncancel()


async def cancel_and_wait(*tasks: asyncio.Future[Any]) -> None:
    """Cancels the tasks and returns when all have ended, however they did.

    Unlike `asyncio.gather` it does not cancel them a second time where the one who waits is cancelled: a task that is
    giving back what it holds would be torn out of that.
    """
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # else asyncio reports it as one that nobody looked at


async def unbroken(step: Awaitable[T], undo: Callable[[T], Awaitable[object]] | None = None) -> T:
    """What the step gives. A cancellation does not reach it, and arrives when it has ended.

    For steps of threads, which go on whatever becomes of those who wait. What it gave is lost then: `undo` takes it
    back.
    """
    task = asyncio.ensure_future(step)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError as cancelled:
        while not task.done():
            with suppress(asyncio.CancelledError):  # another one; the first is raised below
                await asyncio.wait([task])
        failed = None if task.cancelled() else task.exception()
        if failed is not None:
            raise cancelled from failed
        if undo is not None and not task.cancelled():
            await unbroken(undo(task.result()))
        raise


def cancelled_by_owner(*, unknown: bool) -> bool:
    """Of a `CancelledError` that was caught: whether the running task itself was asked to end.

    If not, what it waited for was cancelled: `grpc.aio` says so to whoever waits for a call whose channel is closed.
    `unknown` is the answer on Python 3.10, which cannot say.
    """
    if sys.version_info < (3, 11):
        return unknown
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
