"""Single requests of an event loop gathered into calls of an embedder."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from serving.embedding.embedder import Embedder, Vectors
from serving.errors import InvalidArgument, ResourceExhausted, Unavailable

_MAX_TEXTS: Final = 32
_MAX_WAITING: Final = 1024


@dataclass(frozen=True, slots=True)
class Embedding:
    """One text's vector, float32 [dimension], with what `Embeddings` says of it."""

    vector: Vectors
    tokens: int
    cut: bool


class EmbeddingBatcher:
    """Belongs to one event loop; the embedder runs on a thread of the batcher's own.

    The first text starts at once. Those that come while a call runs wait for its end and then go together, so nobody
    waits for company, and under load calls grow by themselves. A text whose caller is cancelled leaves the queue; once
    in a call it is computed for nobody.
    """

    def __init__(self, embedder: Embedder, *, max_texts: int = _MAX_TEXTS, max_waiting: int = _MAX_WAITING) -> None:
        if max_texts < 1 or max_waiting < 1:
            raise InvalidArgument(f"max_texts {max_texts} and max_waiting {max_waiting} must be at least 1")
        self._embedder = embedder
        self._max_texts = max_texts
        self._max_waiting = max_waiting
        self._waiting: deque[tuple[str, asyncio.Future[Embedding]]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedding")
        self._closed = False
        self.calls = 0  # of the embedder, so far
        self.texts = 0  # in them

    async def embed(self, text: str) -> Embedding:
        """Raises what the embedder raises for this text, `ResourceExhausted` when too many wait, `Unavailable` after
        `close`."""
        if self._closed:
            raise Unavailable("the embedder is closed")
        if len(self._waiting) >= self._max_waiting:
            raise ResourceExhausted(f"{self._max_waiting} texts wait for the embedder already")
        answer: asyncio.Future[Embedding] = asyncio.get_running_loop().create_future()
        entry = (text, answer)
        self._waiting.append(entry)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        try:
            return await answer
        finally:
            if answer.cancelled():
                self._forget(entry)

    async def close(self) -> None:
        """Ends the call that runs, fails what waits with `Unavailable`. May be repeated."""
        self._closed = True
        while self._waiting:
            _, waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_exception(Unavailable("the embedder was closed while the text waited for it"))
        if self._task is not None:
            await asyncio.wait([self._task])
        self._thread.shutdown()

    def _forget(self, entry: tuple[str, asyncio.Future[Embedding]]) -> None:
        if entry in self._waiting:
            self._waiting.remove(entry)

    async def _run(self) -> None:
        """Goes on while texts wait. There is one at a time."""
        try:
            while self._waiting:
                count = min(self._max_texts, len(self._waiting))
                await self._call([self._waiting.popleft() for _ in range(count)])
        finally:
            self._task = None

    async def _call(self, taken: list[tuple[str, asyncio.Future[Embedding]]]) -> None:
        self.calls += 1
        self.texts += len(taken)
        loop = asyncio.get_running_loop()
        try:
            done = await loop.run_in_executor(self._thread, self._embedder.encode, [text for text, _ in taken])
        except Exception as error:  # noqa: BLE001 - it is the callers'
            if len(taken) > 1:  # one text may be at fault: the others must not fail with it
                for entry in taken:
                    await self._call([entry])
            elif not taken[0][1].done():
                taken[0][1].set_exception(error)
            return
        for row, (_, answer) in enumerate(taken):
            if not answer.done():
                answer.set_result(Embedding(done.vectors[row].copy(), done.tokens[row], done.cut[row]))
