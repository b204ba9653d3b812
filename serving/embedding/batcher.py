"""Requests of an event loop gathered into calls of an embedder."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from serving.embedding.embedder import TokenEmbedder, Vectors
from serving.embedding.options import DEFAULT_BATCH_INPUTS, DEFAULT_BATCH_TOKENS, DEFAULT_WAITING_TOKENS
from serving.errors import InvalidArgument, ResourceExhausted, Unavailable

_LOG: Final = logging.getLogger(__name__)
_FAILURES: Final = 3  # calls in a row, until it is the embedder that is not well


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Of one call of the embedder, and of the tokens that wait for one."""

    max_inputs: int = DEFAULT_BATCH_INPUTS
    max_tokens: int = DEFAULT_BATCH_TOKENS
    max_waiting_tokens: int = DEFAULT_WAITING_TOKENS

    def __post_init__(self) -> None:
        if min(self.max_inputs, self.max_tokens, self.max_waiting_tokens) < 1:
            raise InvalidArgument(f"each of {self} must be at least 1")


class BatchObserver(Protocol):
    """Hears what happens, on the batcher's loop."""

    def begun(self, waited_s: float) -> None:
        """The first input of a request goes into a call."""

    def computed(self, inputs: int, tokens: int, seconds: float) -> None:
        """One call."""


class _Request:
    """The inputs of one caller. The first `taken` have gone into calls, `missing` vectors are not there yet."""

    def __init__(self, inputs: Sequence[Sequence[int]], dimension: int, *, batch: bool) -> None:
        self.inputs = inputs
        self.batch = batch
        self.vectors = np.empty((len(inputs), dimension), dtype=np.float32)
        self.answer: asyncio.Future[Vectors] = asyncio.get_running_loop().create_future()
        self.since = time.perf_counter()
        self.taken = 0
        self.missing = len(inputs)

    @property
    def waiting_tokens(self) -> int:
        return sum(len(one) for one in self.inputs[self.taken :])

    def put(self, place: int, vector: Vectors) -> None:
        self.vectors[place] = vector
        self.missing -= 1
        if not self.missing and not self.answer.done():
            self.answer.set_result(self.vectors)

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


_Taken = list[tuple[_Request, int]]  # inputs by their places in requests


class EmbeddingBatcher:
    """Belongs to one event loop; the embedder runs on a thread of the batcher's own.

    The first request starts at once. Inputs that come while a call runs wait for its end and then go together, so
    nobody waits for company, and under load calls grow by themselves. Requests take turns, input by input: one text is
    not held up by thousands that came before it. A caller that is cancelled takes what waits of its inputs along; what
    is in a call is computed for nobody.
    """

    def __init__(
        self, embedder: TokenEmbedder, limits: BatchLimits | None = None, observer: BatchObserver | None = None
    ) -> None:
        self._embedder = embedder
        self._limits = limits or BatchLimits()
        self._observer = observer
        self._waiting: deque[_Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedding")
        self._closed = False
        self._failures = 0
        self._behind: deque[_Request] = deque()  # of the class batch: goes into calls where others leave room
        self._behind_tokens = 0
        self.waiting_tokens = 0  # of both
        self.failure = ""  # why the embedder is not well; empty: it is

    async def embed(self, inputs: Sequence[Sequence[int]], *, batch: bool = False) -> Vectors:
        """float32 [n, dimension], of tokens as `TokenEmbedder.compute` takes them. With `batch` all others go first.

        Raises what the embedder raises, `ResourceExhausted` when too many tokens wait, `Unavailable` after `close`.
        """
        if self._closed:
            raise Unavailable("the embedder is closed")
        tokens = sum(len(one) for one in inputs)
        self._check_room(tokens, batch=batch)
        request = _Request(inputs, self._embedder.dimension, batch=batch)
        if not inputs:
            return request.vectors
        self._queue_of(request).append(request)
        self._count(request, tokens)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="embedding batches")
        try:
            return await request.answer
        finally:
            self._forget(request)

    async def close(self) -> None:
        """Ends the call that runs, fails what waits with `Unavailable`. May be repeated."""
        self._closed = True
        for request in [*self._waiting, *self._behind]:
            request.fail(Unavailable("the embedder was closed while the request waited for it"))
            self._forget(request)
        if self._task is not None:
            await asyncio.wait([self._task])
        self._thread.shutdown()

    def _queue_of(self, request: _Request) -> deque[_Request]:
        return self._behind if request.batch else self._waiting

    def _count(self, request: _Request, tokens: int) -> None:
        self.waiting_tokens += tokens
        self._behind_tokens += tokens if request.batch else 0

    def _check_room(self, tokens: int, *, batch: bool) -> None:
        """Where nothing waits, any request may: else one longer than the limit could never be answered.

        The class batch has a room of its own, a quarter of the others'.
        """
        limit, waiting = self._limits.max_waiting_tokens, self.waiting_tokens - self._behind_tokens
        if batch:
            limit, waiting = limit // 4, self._behind_tokens
        if waiting and waiting + tokens > limit:
            raise ResourceExhausted(
                f"this replica is full: {waiting} tokens of texts wait, with {tokens} more above {limit} "
                "(max_waiting_tokens); send the request to another replica, or later"
            )

    def _forget(self, request: _Request) -> None:
        """What of it still waits."""
        if request.taken < len(request.inputs) and request in self._queue_of(request):
            self._queue_of(request).remove(request)
            self._count(request, -request.waiting_tokens)

    async def _run(self) -> None:
        """Goes on while inputs wait. There is one at a time."""
        try:
            while self._waiting or self._behind:
                await self._call(self._take())
        finally:
            self._task = None

    def _take(self) -> _Taken:
        """The next inputs, at least one."""
        taken: _Taken = []
        tokens = 0
        while (queue := self._waiting or self._behind) and len(taken) < self._limits.max_inputs:
            request = queue[0]
            size = len(request.inputs[request.taken])
            if taken and tokens + size > self._limits.max_tokens:
                break
            taken.append((request, request.taken))
            tokens += size
            if not request.taken and self._observer is not None:
                self._observer.begun(time.perf_counter() - request.since)
            request.taken += 1
            self._count(request, -size)
            queue.rotate(-1)
            if request.taken == len(request.inputs):
                queue.pop()
        return taken

    async def _call(self, taken: _Taken) -> None:
        inputs = [request.inputs[place] for request, place in taken]
        began = time.perf_counter()
        try:
            vectors = await asyncio.get_running_loop().run_in_executor(self._thread, self._embedder.compute, inputs)
        except Exception as error:  # noqa: BLE001 - it is the callers'
            await self._failed(taken, error)
            return
        self._failures = 0
        self.failure = ""
        if self._observer is not None:
            self._observer.computed(len(inputs), sum(map(len, inputs)), time.perf_counter() - began)
        for row, (request, place) in enumerate(taken):
            request.put(place, vectors[row])

    async def _failed(self, taken: _Taken, error: Exception) -> None:
        """One request may be at fault: the others must not fail with it."""
        requests = list(dict.fromkeys(request for request, _ in taken))
        if len(requests) > 1:
            for request in requests:
                await self._call([one for one in taken if one[0] is request])
            return
        _LOG.warning("the embedder failed", exc_info=error, extra={"inputs": len(taken)})
        self._failures += 1
        if self._failures >= _FAILURES:
            self.failure = f"{self._failures} calls in a row failed, the last one with {type(error).__name__}: {error}"
        requests[0].fail(error)
        self._forget(requests[0])
