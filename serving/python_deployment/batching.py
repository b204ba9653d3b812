"""`@batch`: single requests gathered into one call."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from serving.errors import Internal, InvalidArgument
from serving.python_deployment.request import Request, current_request
from serving.python_deployment.user_loop import in_thread

_MAX_SIZE: Final = 10_000
Method = Callable[[Any, list[Any]], Any]


def batch(
    *, max_size: int = 8, wait_s: float = 0.01, concurrency: int = 1
) -> Callable[[Method], Callable[[Any, Any], Awaitable[Any]]]:
    """Makes a method that takes a list and answers a list into one that takes one and answers one.

    A call begins when `max_size` are there, or `wait_s` after the first; meanwhile at most `concurrency` calls run, so
    that more gather. The method may be `async` or block (it then runs on a thread). Its list may hold
    exceptions: each fails only its own request. Requests whose clients are gone are left out. Raises `InvalidArgument`
    for numbers that make no sense.
    """
    if not 1 <= max_size <= _MAX_SIZE or not 0 <= wait_s <= 60 or concurrency < 1:
        raise InvalidArgument(f"@batch(max_size={max_size}, wait_s={wait_s}, concurrency={concurrency}) makes no sense")

    def decorate(method: Method) -> Callable[[Any, Any], Awaitable[Any]]:
        attribute = f"_batcher_of_{method.__name__}"

        @functools.wraps(method)
        async def one(self: Any, item: Any) -> Any:
            batcher: Batcher | None = self.__dict__.get(attribute)
            if batcher is None:  # on the one loop of the user's code: no second one can come in between
                batcher = Batcher(functools.partial(method, self), max_size, wait_s, concurrency)
                self.__dict__[attribute] = batcher
            return await batcher.add(item)

        return one

    return decorate


class _Entry:
    __slots__ = ("answer", "item", "request")

    def __init__(self, item: object, answer: asyncio.Future[Any]) -> None:
        self.item = item
        self.answer = answer
        self.request = current_request.get()


class Batcher:
    """The requests that wait for one method of one object. Belongs to one event loop."""

    def __init__(self, call: Callable[[list[Any]], Any], max_size: int, wait_s: float, concurrency: int) -> None:
        self._call = call
        self._max_size = max_size
        self._wait_s = wait_s
        self._free = concurrency
        self._waiting: list[_Entry] = []
        self._timer: asyncio.TimerHandle | None = None
        self._due = False  # the first one has waited long enough
        self._running: set[asyncio.Task[None]] = set()

    async def add(self, item: object) -> Any:
        """The answer to this item. Raises what its place in the list held, or what the whole call raised."""
        loop = asyncio.get_running_loop()
        entry = _Entry(item, loop.create_future())
        self._waiting.append(entry)
        if self._timer is None:
            self._timer = loop.call_later(self._wait_s, self._time_is_up)
        self._begin()
        try:
            return await entry.answer
        finally:
            if entry in self._waiting:  # cancelled before its call began
                self._waiting.remove(entry)

    def _time_is_up(self) -> None:
        self._due = True
        self._begin()

    def _begin(self) -> None:
        """Starts what may start now."""
        self._waiting = [entry for entry in self._waiting if not entry.answer.done()]
        while self._free and self._waiting and (self._due or len(self._waiting) >= self._max_size):
            taken, self._waiting = self._waiting[: self._max_size], self._waiting[self._max_size :]
            self._restart_timer()
            self._free -= 1
            task = asyncio.get_running_loop().create_task(self._run(taken))
            self._running.add(task)
            task.add_done_callback(self._ended)
            for entry in taken:
                entry.answer.add_done_callback(functools.partial(_cancel_if_unwanted, taken, task))
        if not self._waiting:
            self._restart_timer()

    def _restart_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = False
        self._timer = asyncio.get_running_loop().call_later(self._wait_s, self._time_is_up) if self._waiting else None

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._free += 1
        self._begin()

    async def _run(self, taken: list[_Entry]) -> None:
        current_request.set(_together(taken))
        items = [entry.item for entry in taken]
        try:
            if inspect.iscoroutinefunction(self._call):
                answers = await self._call(items)
            else:
                answers = await in_thread(functools.partial(self._call, items))
        except asyncio.CancelledError:
            _fail(taken, Internal("the batch was cancelled"))
            raise
        except Exception as error:  # noqa: BLE001 - it is each request's
            _fail(taken, error)
            return
        except BaseException as error:  # noqa: BLE001 - SystemExit must not end the loop of all others
            _fail(taken, RuntimeError(f"{type(error).__name__}: {error}"))
            return
        if not isinstance(answers, Sequence) or len(answers) != len(items):
            got = f"{len(answers)} answers" if isinstance(answers, Sequence) else f"a {type(answers).__name__}"
            _fail(taken, Internal(f"the batch method answered {got} to {len(items)} requests"))
            return
        for entry, answer in zip(taken, answers, strict=True):
            if entry.answer.done():
                continue
            if isinstance(answer, Exception):
                entry.answer.set_exception(answer)
            else:
                entry.answer.set_result(answer)


def _fail(entries: list[_Entry], error: Exception) -> None:
    for entry in entries:
        if not entry.answer.done():
            entry.answer.set_exception(error)


def _cancel_if_unwanted(entries: list[_Entry], task: asyncio.Task[None], _: object) -> None:
    """When nobody waits for any answer of a call, it need not go on."""
    if all(entry.answer.cancelled() for entry in entries):
        task.cancel()


def _together(entries: list[_Entry]) -> Request | None:
    """The request that stands for all of them: the first one, with the latest deadline."""
    requests = [entry.request for entry in entries if entry.request is not None]
    if not requests:
        return None
    deadlines = [request.deadline for request in requests]
    latest = None if None in deadlines else max(deadline for deadline in deadlines if deadline is not None)
    # With an event of its own: that the first client has gone says nothing of the others.
    return replace(requests[0], deadline=latest, _cancelled=threading.Event(), _calls=[])
