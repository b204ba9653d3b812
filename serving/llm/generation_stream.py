"""One generation as the event loop sees it: events come from the engine's thread, one consumer takes them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from serving.errors import MeshError
from serving.llm.engine import GenerationRequest, TokenEvent


class GenerationStream:
    """A `Generation`. Belongs to one event loop: all methods are called there.

    What was not taken yet is bounded by the request itself: at most `max_tokens` numbers, and as many log
    probabilities when they were asked for.
    """

    def __init__(self, request: GenerationRequest, cancel: Callable[[GenerationStream], None]) -> None:
        self.request = request
        self._cancel = cancel
        self._events: deque[TokenEvent] = deque()
        self._error: MeshError | None = None
        self._ended = False
        self._news = asyncio.Event()

    @property
    def ended(self) -> bool:
        """Whether nothing more comes from the engine; events may still be here."""
        return self._ended

    def __aiter__(self) -> GenerationStream:
        return self

    async def __anext__(self) -> TokenEvent:
        while not self._events:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._events.popleft()

    def cancel(self) -> None:
        """Who waits for an event wakes up: the iterator ends, without an event with `finish`."""
        if self._ended:
            return
        self._events.clear()
        self._end()
        self._cancel(self)

    def put(self, event: TokenEvent) -> None:
        """From the engine. What comes after the end (or a cancellation) is dropped."""
        if self._ended:
            return
        self._events.append(event)
        if event.finish is not None:
            self._end()
        self._news.set()

    def fail(self, error: MeshError) -> None:
        """From the engine: after the events that are there, the iterator raises."""
        if not self._ended:
            self._error = error
            self._end()

    def _end(self) -> None:
        self._ended = True
        self._news.set()


def call_on(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *arguments: Any) -> None:
    """From another thread: on the event loop, soon. When it was closed nobody waits for it any more."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(call, *arguments)
