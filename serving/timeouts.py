"""Waiting without losing the cancellation of the one who waits, and without taking another one for it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
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


class interruptible:  # noqa: N801 - read as the verb that `with` makes of it
    """Gives what ends the block from elsewhere on the loop: its task is cancelled, and the block raises that error.

    The first one counts, and none after the block. A task for the block's work, cancelled from its own one, would do
    the same for three more turns of the loop. Whoever cancels the task itself at that moment is heard (on Python 3.10
    the error is raised then).
    """

    __slots__ = ("_before", "_done", "_reason", "_task")

    def __init__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("only a task can be interrupted")
        self._task = task
        self._before = _cancellations(task)
        self._reason: Exception | None = None
        self._done = False

    def __enter__(self) -> Callable[[Exception], None]:
        return self._interrupt

    def _interrupt(self, error: Exception) -> None:
        if self._reason is not None or self._done:
            return
        self._reason = error
        if asyncio.current_task() is self._task:  # it would not hear of it before it waits: maybe after the block
            asyncio.get_running_loop().call_soon(self._cancel)
        else:
            self._task.cancel()

    def _cancel(self) -> None:
        if not self._done:
            self._task.cancel()

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._done = True
        if self._reason is None:
            return
        if error is not None:
            if _take_back(self._task) > self._before:
                return  # the task's own end comes first
            raise self._reason from error
        if _cancellations(self._task) > self._before:  # the work ended all the same
            _take_back(self._task)
        raise self._reason


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
