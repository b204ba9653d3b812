"""Where users' code runs: an event loop on a thread of its own, and threads for what blocks.

The loop that speaks to clients, the master and etcd is another one: user code that blocks stops no health check.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Generic, TypeVar

from serving.errors import Cancelled, FailedPrecondition

_LOG: Final = logging.getLogger(__name__)
T = TypeVar("T")
DEFAULT_THREADS: Final = 8
_END_S: Final = 1.0  # for cancelled tasks at the end


class Work(Generic[T]):
    """A coroutine on the user's loop, as another thread sees it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.ended: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._loop = loop
        self._task: asyncio.Task[None] | None = None
        self._cancelled = False
        self._here: asyncio.Future[T] | None = None

    def here(self) -> asyncio.Future[T]:
        """Its end on the running loop, always the same one: each more would be another wake-up of that loop."""
        if self._here is None:
            self._here = _watched(self.ended)
        return self._here

    async def result(self) -> T:
        """What it gave. When the caller is cancelled, so is the work; `ended` says when it has really ended."""
        try:
            return await asyncio.shield(self.here())
        except asyncio.CancelledError:
            self.cancel()
            raise

    def cancel(self) -> None:
        """From any thread; returns at once. Blocking code is not interrupted."""
        if not self.ended.done():
            with contextlib.suppress(RuntimeError):  # the loop is closed, and everything has ended
                self._loop.call_soon_threadsafe(self._cancel)

    def begin(self, make: Callable[[], Coroutine[Any, Any, T]]) -> None:
        """On the loop."""
        if self._cancelled:
            self.ended.set_exception(Cancelled("the caller went away"))
            return
        self._task = self._loop.create_task(self._run(make))
        self._task.add_done_callback(self._settle)

    def _settle(self, _: object) -> None:
        """A task that is cancelled before its first step runs nothing of `_run`, and still has ended."""
        if not self.ended.done():
            self.ended.set_exception(Cancelled("the caller went away"))

    def _cancel(self) -> None:
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()

    async def _run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> None:
        try:
            result = await make()
        except asyncio.CancelledError:
            self.ended.set_exception(Cancelled("the caller went away" if self._cancelled else "it cancelled itself"))
        except Exception as error:  # noqa: BLE001 - it is the caller's
            self.ended.set_exception(error)
        except BaseException as error:  # noqa: BLE001 - SystemExit of user code must not end the loop of all others
            self.ended.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))
        else:
            self.ended.set_result(result)


class UserLoop:
    """One per replica, from `start` to the end of the process: user code cannot be made to end."""

    def __init__(self, *, threads: int = 0) -> None:
        self._running: asyncio.AbstractEventLoop | None = None
        self._stopping = False
        self._pool = ThreadPoolExecutor(threads or DEFAULT_THREADS, thread_name_prefix="user")
        self._thread = threading.Thread(target=self._serve, name="user-loop", daemon=True)

    def start(self) -> None:
        self._running = asyncio.new_event_loop()
        self._thread.start()

    @property
    def alive(self) -> bool:
        """False before `start`, and when nothing can run here any more."""
        return self._thread.is_alive()

    def join(self, timeout_s: float) -> None:
        """Waits until the thread has ended."""
        self._thread.join(timeout_s)

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        if self._running is None:
            raise FailedPrecondition("the loop of the user's code is not started yet")
        return self._running

    def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> Work[T]:
        """Runs the coroutine that `make` gives on the loop, in a copy of the caller's context. From any thread."""
        work: Work[T] = Work(self._loop)
        self._loop.call_soon_threadsafe(work.begin, make)
        return work

    async def in_thread(self, function: Callable[[], T]) -> T:
        """For a coroutine on the loop: a blocking call in the same context.

        When it is cancelled it still waits for a call that has begun, which nothing can interrupt.
        """
        return await _in_thread(self._pool, function)

    def stop(self) -> None:
        """Starts nothing more and cancels what runs; code that blocks is left to the end of the process."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._running is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: it has stopped already
                self._running.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self._stopping = True
        self._loop.stop()

    def _serve(self) -> None:
        loop = self._loop
        asyncio.set_event_loop(loop)
        _HERE.pool = self._pool
        try:
            while not self._stopping:  # user code may stop it, too
                _survive(loop.run_forever)
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                _survive(lambda: loop.run_until_complete(asyncio.wait(left, timeout=_END_S)))
        finally:
            loop.close()


class ServingLoop:
    """Runs work on the loop that calls: for code of ours that never blocks it."""

    def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> Work[T]:
        work: Work[T] = Work(asyncio.get_running_loop())
        work.begin(make)
        return work


class _Here(threading.local):
    """Of the thread of a loop: where its blocking code runs."""

    pool: ThreadPoolExecutor | None = None


_HERE: Final = _Here()


async def in_thread(function: Callable[[], T]) -> T:
    """As `UserLoop.in_thread` of the loop that this runs on; also where a class is used outside of a replica."""
    if _HERE.pool is None:
        _HERE.pool = ThreadPoolExecutor(DEFAULT_THREADS, thread_name_prefix="user")
    return await _in_thread(_HERE.pool, function)


async def _in_thread(pool: ThreadPoolExecutor, function: Callable[[], T]) -> T:
    running = pool.submit(contextvars.copy_context().run, guarded, function)
    try:
        return await asyncio.shield(_watched(running))
    except asyncio.CancelledError:
        while not running.cancel() and not running.done():
            with contextlib.suppress(asyncio.CancelledError):  # it is on its way: raised below
                await asyncio.wait({_watched(running)})
        raise


def _survive(run: Callable[[], object]) -> None:
    """asyncio lets SystemExit of any task out of its loop, where it would end the work of all other requests."""
    try:
        run()
    except (SystemExit, KeyboardInterrupt) as error:
        _LOG.error("a task of user code wants to end the process; it serves on", exc_info=error)


def _watched(future: concurrent.futures.Future[T]) -> asyncio.Future[T]:
    """For the running loop. Its error counts as seen, also when whoever awaits it is cancelled first."""
    made = asyncio.wrap_future(future)
    made.add_done_callback(lambda done: None if done.cancelled() else done.exception())
    return made


def guarded(function: Callable[[], T]) -> T:
    """The same function, fit for a future."""
    try:
        return function()
    except StopIteration as error:  # a future cannot carry it
        raise RuntimeError("StopIteration left the function") from error


def check_not_on_a_loop(what: str) -> None:
    """Raises `FailedPrecondition` where a blocking call would stop every other request."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise FailedPrecondition(f"{what} would block the event loop: use `await` with its async twin")
