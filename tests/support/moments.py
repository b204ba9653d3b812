"""Ends something at every moment of its life, and looks at what it leaves behind.

What waits for ever when it is left does so at one await of hundreds, for a turn of the event loop or two. No test meets
that by chance; one that ends the same work after every number of turns does.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ENDS_WITHIN_S: Final = 30.0
_WARM_S: Final = 0.3
_GRPC_POLLER: Final = "_poll_wrapper"  # one for the process, for ever
_REPLACED_WITHIN_TURNS: Final = 20
_GONE_WITHIN_S: Final = 30.0  # gRPC closes its sockets on threads of its own


@dataclass(frozen=True)
class Moment:
    """So many turns of the event loop after a beginning, and so many seconds after those."""

    turns: int = 0
    seconds: float = 0.0

    async def come(self, work: asyncio.Future[Any]) -> None:
        """Returns when it has come, or the work has ended before."""
        for _ in range(self.turns):
            if work.done():
                return
            await asyncio.sleep(0)
        if self.seconds:
            await asyncio.wait({work}, timeout=self.seconds)


async def turn_of(condition: Callable[[], bool]) -> None:
    """Returns in the very turn of the loop in which it became true: from there on turns can be counted."""
    deadline = asyncio.get_running_loop().time() + ENDS_WITHIN_S
    for _ in itertools.count():
        if condition():
            return
        assert asyncio.get_running_loop().time() < deadline, f"not within {ENDS_WITHIN_S:g} s: {condition}"
        await asyncio.sleep(0)


def moments(*, turns: int = 20, last: int = 400, seconds: tuple[float, ...] = (0.003, 0.02)) -> Iterator[Moment]:
    """After each of the first `turns`, after ever fewer of those up to `last`, and after so many seconds."""
    turn = 0
    while turn <= last:
        yield Moment(turn)
        turn += 1 + max(0, turn - turns) // 3
    yield from (Moment(seconds=length) for length in seconds)


async def cut(work: Coroutine[Any, Any, Any], moment: Moment) -> asyncio.Task[Any]:
    """Cancels the work at that moment; returns its task, which has ended. Fails when it does not end."""
    task = asyncio.ensure_future(work)
    await moment.come(task)
    task.cancel()
    await ended(task, moment)
    return task


async def ended(task: asyncio.Task[Any], moment: Moment) -> None:
    """Returns when it has ended. Fails, and says where it stands, when it does not."""
    _, running = await asyncio.wait({task}, timeout=ENDS_WITHIN_S)
    assert not running, f"{moment}: still runs {ENDS_WITHIN_S:g} s after it was to end:\n{_where_all_wait()}"
    if not task.cancelled():
        task.exception()  # for the scenario to look at, or not


async def at_each(
    scenario: Callable[[Moment], Awaitable[object]], when: Iterator[Moment] | tuple[Moment, ...] | None = None
) -> None:
    """Runs the scenario for each moment (by default `moments()`); nothing of it may be left afterwards.

    The first run is not looked at: it opens what stays open, such as a client's connections.
    """
    await scenario(Moment(seconds=_WARM_S))
    with _old_things_uncollected():
        for moment in moments() if when is None else when:
            before = await Remains.lasting()
            await scenario(moment)
            await before.nothing_more(moment)


@contextmanager
def _old_things_uncollected() -> Iterator[None]:
    """What is there already is not gone through each time that something is to be collected: it takes 0.1 s."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@dataclass(frozen=True)
class Remains:
    """The tasks of the running loop, Python's threads, and the sockets and pipes of the process.

    Tasks are counted by what they run: what lives longer than a scenario may replace one of its own by another.
    """

    tasks: Counter[str]
    threads: frozenset[threading.Thread]
    descriptors: int

    @classmethod
    async def lasting(cls) -> Remains:
        """What is there, and what is for some turns not: a watch reads again after it was told something."""
        seen = cls.now()
        for _ in range(_REPLACED_WITHIN_TURNS):
            await asyncio.sleep(0)
            now = cls.now()
            seen = cls(seen.tasks | now.tasks, seen.threads | now.threads, max(seen.descriptors, now.descriptors))
        return seen

    @classmethod
    def now(cls) -> Remains:
        tasks = Counter(_work_of(task) for task in asyncio.all_tasks() if not _of_a_server(task))
        return cls(tasks, frozenset(threading.enumerate()), _open_descriptors())

    async def nothing_more(self, moment: Moment) -> None:
        """Returns when there is nothing more than that. Fails with what there is."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _GONE_WITHIN_S
        while more := self._more():
            gc.collect()  # a call that was cancelled holds its connection until nothing refers to it
            assert loop.time() < deadline, f"{moment}: left behind: {more}\n{_where_all_wait()}"
            await asyncio.sleep(0.002)

    def _more(self) -> str:
        now = Remains.now()
        tasks = sorted((now.tasks - self.tasks).elements())
        threads = [thread.name for thread in now.threads - self.threads if not _stays(thread)]
        descriptors = now.descriptors - self.descriptors
        return "; ".join([*tasks, *threads, *([f"{descriptors} descriptors"] if descriptors > 0 else [])])


def _open_descriptors() -> int:
    return sum(_is_channel(entry) for entry in Path("/proc/self/fd").iterdir())


def _is_channel(entry: Path) -> bool:
    try:
        return os.readlink(entry).startswith(("socket:", "pipe:"))
    except FileNotFoundError:
        return False  # closed in between


def _work_of(task: asyncio.Task[Any]) -> str:
    work = task.get_coro()
    return str(getattr(work, "__qualname__", type(work).__name__))


def _of_a_server(task: asyncio.Task[Any]) -> bool:
    """Of a `grpc.aio` server in this loop, which always has one that waits for the next call."""
    return "AioServer" in repr(task)


def _stays(thread: threading.Thread) -> bool:
    """Those of the loop's executor, and gRPC's."""
    return thread.name.startswith("asyncio_") or _GRPC_POLLER in thread.name


def _where_all_wait() -> str:
    lines: list[str] = []
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        lines.append(f"{task.get_name()}:")
        awaits: Any = task.get_coro()
        while awaits is not None:
            frame = getattr(awaits, "cr_frame", None) or getattr(awaits, "ag_frame", None)
            lines.append(f"  {frame.f_code.co_filename}:{frame.f_lineno}" if frame else f"  {awaits!r}")
            awaits = getattr(awaits, "cr_await", None) or getattr(awaits, "ag_await", None)
    return "\n".join(lines)
