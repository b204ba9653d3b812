"""One generation as the event loop sees it: events come from the engine's thread, one consumer takes them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Final

from serving.errors import MeshError
from serving.llm.engine import GenerationRequest, TokenEvent

PACE_S: Final = 0.01  # less than a display needs to show a picture
_WHOLE_S: Final = 0.5  # where nobody shows it: so that its text is not decoded all at once, and counts follow


class Pace:
    """When those wake who wait for a generation's next tokens: at most once in `interval_s`, all at the same moment.

    Each piece of an answer costs a write here and a wake-up of everybody whom it passes, whatever it holds: streams
    that bring a token each 3 ms would cost more than their tokens. Belongs to one event loop. Slower ones do not wait.
    """

    def __init__(self, interval_s: float = PACE_S) -> None:
        self.interval_s = interval_s
        self._waiting: list[asyncio.Event] = []

    def wake_later(self, news: asyncio.Event, now: float) -> None:
        """Sets it at the end of the current interval. `now` is the loop's time."""
        if not self._waiting:
            loop = asyncio.get_running_loop()
            loop.call_at((now // self.interval_s + 1) * self.interval_s, self._wake)
        self._waiting.append(news)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for news in waiting:
            news.set()


class Paces:
    """One for answers that are streamed, one for those that are sent whole."""

    def __init__(self) -> None:
        self._streamed, self._whole = Pace(), Pace(_WHOLE_S)

    def of(self, request: GenerationRequest) -> Pace:
        return self._whole if request.whole else self._streamed


class GenerationStream:
    """A `Generation`. Belongs to one event loop: all methods are called there.

    What was not taken yet is one event. It is bounded by the request itself: at most `max_tokens` numbers, and as many
    log probabilities when they were asked for.
    """

    def __init__(
        self, request: GenerationRequest, cancel: Callable[[GenerationStream], None], pace: Pace | None = None
    ) -> None:
        """Without a `pace` each event wakes the one who waits."""
        self.request = request
        self._cancel = cancel
        self._pace = pace
        self._events: list[TokenEvent] = []
        self._error: MeshError | None = None
        self._ended = False
        self._news = asyncio.Event()  # there is something to take, and it is time to
        self._paced = False  # `_news` will be set
        self._taken_at = float("-inf")

    @property
    def ended(self) -> bool:
        """Whether nothing more comes from the engine; events may still be here."""
        return self._ended

    def __aiter__(self) -> GenerationStream:
        return self

    async def __anext__(self) -> TokenEvent:
        while True:
            await self._news.wait()
            self._paced = False
            if self._events:
                return self._take()
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._news.clear()  # set late, for what was taken before

    def _take(self) -> TokenEvent:
        """All that is there."""
        events, self._events = self._events, []
        if not self._ended:
            self._news.clear()
            self._taken_at = asyncio.get_running_loop().time()
        return events[0] if len(events) == 1 else _as_one(events)

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
        elif not self._paced and not self._news.is_set():
            self._wake()

    def _wake(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._pace is None or now - self._taken_at >= self._pace.interval_s:
            self._news.set()
        else:
            self._paced = True
            self._pace.wake_later(self._news, now)

    def fail(self, error: MeshError) -> None:
        """From the engine: after the events that are there, the iterator raises."""
        if not self._ended:
            self._error = error
            self._end()

    def _end(self) -> None:
        self._ended = True
        self._news.set()


def _as_one(events: Sequence[TokenEvent]) -> TokenEvent:
    return TokenEvent(
        tuple(chain.from_iterable(event.tokens for event in events)),
        tuple(chain.from_iterable(event.logprobs for event in events)),
        tuple(chain.from_iterable(event.top_logprobs for event in events)),
        events[-1].finish,
        events[0].cached,
    )


def call_on(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *arguments: Any) -> None:
    """From another thread: on the event loop, soon. When it was closed nobody waits for it any more."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(call, *arguments)
