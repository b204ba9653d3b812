"""Many rows given to a sender, and their answers as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from functools import partial
from typing import Generic, TypeAlias, TypeVar

from serving.batch.rows.request import RowAnswer, RowRequest
from serving.timeouts import cancel_and_wait

T = TypeVar("T")
Done: TypeAlias = Callable[[RowAnswer], None]
Withdraw: TypeAlias = Callable[[], None]  # the row's answer is not wanted any more


class RowStream(Generic[T]):
    """`answers` is iterated once. At most `most` rows have been taken and have not been given back."""

    def __init__(
        self,
        add: Callable[[RowRequest, Done], Awaitable[Withdraw]],
        rows: Iterable[tuple[T, RowRequest]],
        *,
        most: int,
    ) -> None:
        self._add = add
        self._rows = rows
        self._finished: asyncio.Queue[tuple[T, RowAnswer] | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(most)
        self._open: dict[int, Withdraw | None] = {}

    async def answers(self) -> AsyncGenerator[tuple[T, RowAnswer], None]:
        """Unordered. Raises what `rows` raises; rows without an answer are taken back where the caller stops."""
        feeding = asyncio.create_task(self._feed(), name="batch rows")
        feeding.add_done_callback(lambda _: self._finished.put_nowait(None))
        given = 0
        try:
            while not feeding.done() or given < feeding.result():
                found = await self._finished.get()
                if found is not None:
                    given += 1
                    self._room.release()
                    yield found
        finally:
            await cancel_and_wait(feeding)
            for withdraw in tuple(self._open.values()):
                if withdraw is not None:
                    withdraw()

    async def _feed(self) -> int:
        fed = 0
        for mark, request in self._rows:
            await self._room.acquire()
            self._open[fed] = None
            withdraw = await self._add(request, partial(self._done, fed, mark))
            if fed in self._open:  # else its answer is there already
                self._open[fed] = withdraw
            fed += 1
        return fed

    def _done(self, number: int, mark: T, answer: RowAnswer) -> None:
        self._open.pop(number, None)
        self._finished.put_nowait((mark, answer))
