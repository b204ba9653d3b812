"""The loop around every reconcile: queue, workers, backoff, limits, log and numbers live here, decisions do not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from contextvars import ContextVar
from typing import Final, Generic, TypeVar

from serving.control.backoff import Backoff
from serving.control.clock import Clock, SystemClock
from serving.control.outcome import Done, GiveUp, LookAgain, Outcome, Retry
from serving.control.queue import KeyedQueue
from serving.control.stats import ControllerStats
from serving.errors import FailedPrecondition, InvalidArgument
from serving.timeouts import wait_for

_LOG: Final = logging.getLogger(__name__)
_OUTCOME_NAMES: Final = {Done: "done", LookAgain: "look_again", Retry: "retry", GiveUp: "give_up"}

K = TypeVar("K", bound=Hashable)

running_key: ContextVar[str] = ContextVar("running_key", default="")
"""`<controller> <key>` of the run that the current code belongs to; log records carry it."""


class Controller(Generic[K]):
    """Runs `reconcile(key)` for every key that was woken. Belongs to one event loop.

    A key runs once at a time and waits once at most; different keys run side by side on `workers`. What a reconcile
    raises is logged with the key and retried. Keys, timers and failures outlive `run`, which can be run again.
    """

    def __init__(
        self,
        name: str,
        reconcile: Callable[[K], Awaitable[Outcome]],
        *,
        workers: int = 1,
        clock: Clock | None = None,
        backoff: Backoff | None = None,
        timeout_s: float | None = None,
        stop_grace_s: float = 5.0,
    ) -> None:
        """`timeout_s` limits one run. A run that is under way when `run` is cancelled gets `stop_grace_s` to end."""
        if workers < 1:
            raise InvalidArgument(f"controller {name} needs at least one worker, not {workers}")
        self.name = name
        self._reconcile = reconcile
        self._workers = workers
        self._clock: Clock = clock or SystemClock()
        self._backoff = backoff or Backoff()
        self._timeout_s = timeout_s
        self._stop_grace_s = stop_grace_s
        self._queue: KeyedQueue[K] = KeyedQueue()
        self._failures: dict[K, int] = {}
        self._stats = ControllerStats()
        self._changed = asyncio.Event()
        self._active = False
        self._stopping = False

    def wake(self, key: K) -> None:
        """The key runs as soon as a worker is free, whatever it waits for. Only from the controller's event loop."""
        self._queue.wake(key)
        self._changed.set()

    def forget(self, key: K) -> None:
        """The key's failures are history: its next one is its first."""
        self._failures.pop(key, None)

    @property
    def stats(self) -> ControllerStats:
        stats = self._stats
        stats.waiting, stats.delayed, stats.running = self._queue.waiting, self._queue.delayed, self._queue.running
        stats.failing = len(self._failures)
        return stats

    async def run(self) -> None:
        """Until cancelled; then runs under way may end, and `CancelledError` is raised."""
        if self._active:
            raise FailedPrecondition(f"controller {self.name} runs already")
        self._active, self._stopping = True, False
        tasks = [
            asyncio.create_task(self._work(), name=f"{self.name}-worker-{number}") for number in range(self._workers)
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._stopping = True
            self._changed.set()
            try:
                await self._end(tasks)
            finally:
                self._active = False  # also after a second cancellation: else it could never run again
        for task in tasks:
            task.result()  # a fault of this class: runs never raise

    async def _end(self, tasks: list[asyncio.Task[None]]) -> None:
        try:
            await asyncio.wait(tasks, timeout=self._stop_grace_s)
        finally:  # also when we are cancelled once more
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self) -> None:
        while not self._stopping:
            key = self._queue.take(self._clock.monotonic())
            if key is None:
                await self._wait()
            else:
                await self._run_once(key)
                await asyncio.sleep(0)  # a reconcile that never waits must not starve the others

    async def _wait(self) -> None:
        """Until something was woken, the next timer is due, or the end."""
        self._changed.clear()
        due_s = self._queue.next_timer_s()
        waits: list[asyncio.Future[object]] = [asyncio.ensure_future(self._changed.wait())]
        if due_s is not None:
            waits.append(asyncio.ensure_future(self._clock.sleep(due_s - self._clock.monotonic())))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _run_once(self, key: K) -> None:
        started_s = self._clock.monotonic()
        token = running_key.set(f"{self.name} {key}")
        try:
            outcome, name = await self._guarded(key)
        except asyncio.CancelledError:
            self._queue.wake(key)  # it did not end: the next `run` begins with it
            raise
        finally:
            running_key.reset(token)
            self._queue.finished(key)
        now_s = self._clock.monotonic()
        self._stats.ran(name, now_s - started_s)
        again_at_s = self._after(key, outcome, now_s)
        if again_at_s is not None:
            self._queue.wake_at(key, again_at_s)
        self._changed.set()

    async def _guarded(self, key: K) -> tuple[Outcome, str]:
        """The outcome of one run, and what it counts as."""
        try:
            outcome = await wait_for(self._reconcile(key), self._timeout_s)
            return outcome, _OUTCOME_NAMES[type(outcome)]
        except asyncio.CancelledError:
            if self._stopping:
                raise
            _LOG.warning("reconcile was cancelled from inside", exc_info=True, extra=self._context(key))
            return Retry("was cancelled from inside"), "error"
        except asyncio.TimeoutError:
            _LOG.warning("reconcile timed out", exc_info=True, extra=self._context(key) | {"limit_s": self._timeout_s})
            return Retry("timed out"), "error"
        except Exception as error:  # noqa: BLE001 - logged with its key and tried again, whatever it is
            _LOG.exception("reconcile failed", extra=self._context(key))
            return Retry(f"{type(error).__name__}: {error}"), "error"

    def _after(self, key: K, outcome: Outcome, now_s: float) -> float | None:
        """When the key runs again; None: when it is woken."""
        if isinstance(outcome, Retry):
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            delay_s = self._backoff.delay_s(failures)
            _LOG.info(
                "reconcile is retried",
                extra=self._context(key)
                | {"reason": outcome.reason, "failures": failures, "delay_s": round(delay_s, 3)},
            )
            return now_s + delay_s
        self._failures.pop(key, None)
        if isinstance(outcome, GiveUp):
            _LOG.warning("reconcile gave up", extra=self._context(key) | {"reason": outcome.reason})
        return now_s + max(0.0, outcome.after_s) if isinstance(outcome, LookAgain) else None

    def _context(self, key: K) -> dict[str, object]:
        return {"controller": self.name, "key": str(key)}
