"""Rows whose model nobody offers yet wait beside the line: they hold up none of a model that is there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, TypeAlias

from serving.batch.rows.request import RowFault, RowRequest
from serving.batch.sending.row_stream import Done, Withdraw

_LOG: Final = logging.getLogger(__name__)
_MOST: Final = 256  # each looks at every change of what is offered
Enter: TypeAlias = Callable[[RowRequest, Done], Coroutine[Any, Any, Withdraw]]


class Aside:
    """Belongs to one event loop."""

    def __init__(self, enter: Enter, fail: Callable[[Done, RowFault], None]) -> None:
        """`enter` brings a row into the line, or answers it; `fail` answers one that it did not bring there."""
        self._enter = enter
        self._fail = fail
        self._entering: dict[asyncio.Task[Withdraw], Done] = {}

    @property
    def full(self) -> bool:
        return len(self._entering) >= _MOST

    def put(self, request: RowRequest, done: Done) -> Withdraw:
        """What it gives takes the row back."""
        task = asyncio.create_task(self._enter(request, done), name="batch row without a model")
        self._entering[task] = done
        task.add_done_callback(self._ended)
        return partial(self._withdraw, task)

    async def close(self, fault: RowFault) -> None:
        """Rows that still wait here get the fault."""
        left, self._entering = self._entering, {}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
        for task, done in left.items():
            if task.cancelled() or task.exception() is not None:
                self._fail(done, fault)

    def _withdraw(self, task: asyncio.Task[Withdraw]) -> None:
        if not task.done():
            self._entering.pop(task, None)
            task.cancel()
        elif not task.cancelled() and task.exception() is None:
            task.result()()

    def _ended(self, task: asyncio.Task[Withdraw]) -> None:
        done = self._entering.pop(task, None)
        if task.cancelled() or (error := task.exception()) is None:
            return
        _LOG.error("a row could not be taken", exc_info=error)
        if done is not None:
            self._fail(done, RowFault("internal", f"the row could not be taken: {type(error).__name__}"))
