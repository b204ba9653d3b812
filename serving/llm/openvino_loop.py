"""The engine's thread: takes submissions and cancellations, steps the pipeline while there is work, hands over events.

    waiting ──place free, at most one untried guide──▶ running ──last token──▶ finished
       ▲                                                  │ ├──cancelled──▶ (nothing more)
       └──── a step failed, or the cache was lost ────────┘ └──guilty──▶ failed

A step that raises spoils all requests that were in it. Whoever may be guilty is known beforehand: a guide that was
never followed yet is tried alone among tried ones. The others start again where they were.
"""

from __future__ import annotations

import heapq
import logging
import queue
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from serving.errors import Conflict, Internal, InvalidArgument, MeshError, Unavailable
from serving.llm.engine import EngineLoad, FinishReason, TokenEvent
from serving.llm.engine_errors import one_line
from serving.llm.generation_stream import GenerationStream
from serving.llm.guides import GuideRefused, KnownGuides
from serving.llm.openvino_pipeline import Output, Pipeline

_log = logging.getLogger(__name__)
_MOST_FAILURES = 3
_MOST_RESTARTS = 4

News = tuple[GenerationStream, "TokenEvent | MeshError"]


@dataclass(eq=False, slots=True)
class _Run:
    """One generation in this thread.

    `told` are the tokens that left it, `again` how many of them come once more; `behind`: it started again, and has not
    had a new token since.
    """

    stream: GenerationStream
    max_tokens: int
    number: int
    handle: Any = None
    told: list[int] = field(default_factory=list)
    again: int = 0
    behind: bool = False
    restarts: int = 0

    @property
    def order(self) -> tuple[int, int]:
        return (self.stream.request.priority, self.number)


class EngineLoop:
    """`run` is the thread's; `submit`, `cancel`, `close` and `load` are called by others and never wait."""

    def __init__(
        self, pipeline: Pipeline, known: KnownGuides, max_running: int, hand_over: Callable[[Sequence[News]], None]
    ) -> None:
        """`hand_over` is called in this thread, once after each step that has news. Raises when nobody listens."""
        self._pipeline = pipeline
        self._known = known
        self._max_running = max_running
        self._hand_over = hand_over
        self._inbox: queue.SimpleQueue[tuple[Literal["submit", "cancel", "close"], Any]] = queue.SimpleQueue()
        self._runs: dict[GenerationStream, _Run] = {}  # all that wait or run
        self._waiting: list[tuple[tuple[int, int], _Run]] = []  # a heap; may hold ones that were cancelled
        self._running: dict[_Run, None] = {}
        self._tried: _Run | None = None  # whose guide the engine may be unable to follow
        self._news: list[News] = []
        self._numbers = 0
        self._failures = 0  # steps that raised, one after the other
        self.failure = ""

    def submit(self, stream: GenerationStream, max_tokens: int) -> None:
        self._inbox.put(("submit", (stream, max_tokens)))

    def cancel(self, stream: GenerationStream) -> None:
        self._inbox.put(("cancel", stream))

    def close(self) -> None:
        self._inbox.put(("close", None))

    def load(self) -> EngineLoad:
        running = len(self._running)
        waiting = max(0, len(self._runs) - running) + self._inbox.qsize()
        return EngineLoad(running, waiting, self._cache_usage)

    _cache_usage = 0.0

    def run(self) -> None:
        """Returns after `close`, or when it cannot go on (`failure`). What was not finished has failed then."""
        try:
            while not self.failure and self._take_commands():
                self._admit()
                if self._running or self._pipeline.has_work():
                    self._step()
                self._tell_news()
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it
            _log.exception("the engine's thread failed")
            self.failure = f"the engine failed inside: {type(error).__name__}"
        self._end()

    def _take_commands(self) -> bool:
        """Waits for one when there is nothing else to do. False when it is to end."""
        idle = not (self._runs or self._pipeline.has_work())
        while True:
            try:
                kind, what = self._inbox.get(block=idle)
            except queue.Empty:
                return True
            idle = False
            if kind == "close":
                return False
            if kind == "cancel":
                self._drop(what)
            else:
                self._numbers += 1
                stream, max_tokens = what
                run = _Run(stream, max_tokens, self._numbers, told=list(stream.request.told))
                self._runs[run.stream] = run
                heapq.heappush(self._waiting, (run.order, run))

    def _drop(self, stream: GenerationStream) -> None:
        run = self._runs.pop(stream, None)
        if run is not None:
            self._leave(run)

    def _leave(self, run: _Run) -> None:
        """The pipeline forgets it in its next step, without computing anything for it."""
        if run.handle is not None:
            run.handle.cancel()
            run.handle = None
        self._running.pop(run, None)
        if self._tried is run:
            self._tried = None

    def _admit(self) -> None:
        postponed = []
        while self._waiting and len(self._running) < self._max_running:
            entry = heapq.heappop(self._waiting)
            run = entry[1]
            if run.stream not in self._runs:
                continue  # cancelled
            untried = not self._known.is_proven(run.stream.request.sampling.guide)
            if untried and not self._may_try():
                postponed.append(entry)
                continue
            if self._start(run) and untried:
                self._tried = run
        for entry in postponed:
            heapq.heappush(self._waiting, entry)

    def _may_try(self) -> bool:
        """A guide that may break a step: one at a time, and not before those that the last one set back got further."""
        return self._tried is None and not any(run.behind for run in self._runs.values())

    def _start(self, run: _Run) -> bool:
        request = run.stream.request
        prompt, max_tokens, run.again = request.prompt, run.max_tokens, len(run.told)
        if _can_continue(run):
            prompt, max_tokens, run.again = [*prompt, *run.told], max_tokens - len(run.told), 0
        try:
            run.handle = self._pipeline.add(prompt, request.sampling, max_tokens)
        except GuideRefused as error:
            self._refuse(run, error)
            return False
        except (RuntimeError, ValueError, TypeError, OverflowError) as error:
            self._fail(run, InvalidArgument(f"the engine refuses the request: {one_line(error)}"))
            return False
        self._running[run] = None
        return True

    def _refuse(self, run: _Run, error: GuideRefused) -> None:
        if run.stream.request.sampling.guide is not None:
            self._known.remember(run.stream.request.sampling.guide, error.why)
        self._fail(run, error)

    def _step(self) -> None:
        try:
            self._pipeline.step()
        except RuntimeError as error:
            self._heal(error)
            return
        self._cache_usage = self._pipeline.cache_usage()
        for run in list(self._running):
            output = self._pipeline.read(run.handle)
            if output.lost:
                self._start_again(run, why="the generation lost its place in the engine's cache again and again")
            elif output.tokens or output.finish:
                self._failures = 0
                self._take(run, output)

    def _take(self, run: _Run, output: Output) -> None:
        sampling = run.stream.request.sampling
        if self._tried is run and sampling.guide is not None:
            self._known.remember(sampling.guide)
            self._tried = None
        if run.again and not self._repeat(run, output):
            return
        finish = _cut_at_stop_token(output, sampling.stop_token_ids) if sampling.ignore_eos else None
        finish = finish or output.finish
        if output.tokens or finish:
            run.told += output.tokens
            run.behind = False
            logprobs = tuple(output.logprobs) if sampling.logprobs else ()
            self._news.append((run.stream, TokenEvent(tuple(output.tokens), logprobs, finish=finish)))
        if finish:
            self._runs.pop(run.stream, None)
            self._leave(run)

    def _repeat(self, run: _Run, output: Output) -> bool:
        """Takes away what was told before the generation started again. False when it became another one."""
        count = min(run.again, len(output.tokens))
        start = len(run.told) - run.again
        if output.tokens[:count] != run.told[start : start + count] or (output.finish and count < run.again):
            self._fail(run, _not_repeated(run))
            return False
        del output.tokens[:count], output.logprobs[:count]
        run.again -= count
        return True

    def _heal(self, error: RuntimeError) -> None:
        """Finds who made the step fail, and starts the others again."""
        self._failures += 1
        _log.warning("the engine's step failed", extra={"error": one_line(error), "times": self._failures})
        runs = sorted(self._running, key=lambda run: run.number)
        guilty = self._tried
        if guilty is None and self._failures > 1:
            guilty = next((run for run in reversed(runs) if run.stream.request.sampling.guide is not None), None)
        if not self._pipeline.drain([run.handle for run in runs]) or (
            guilty is None and self._failures >= _MOST_FAILURES
        ):
            self.failure = f"the engine fails at each step: {one_line(error)}"
            return
        if guilty is not None and guilty.stream.request.sampling.guide is not None:
            self._refuse(guilty, GuideRefused(one_line(error)))
        for run in runs:
            if run is not guilty:
                self._start_again(run, why="" if guilty else "the engine failed while it computed the generation")

    def _start_again(self, run: _Run, why: str) -> None:
        """`why`: what it failed of when that happened too often; empty for what others were guilty of."""
        self._leave(run)
        run.behind = True
        run.restarts += bool(why)
        if run.restarts > _MOST_RESTARTS:
            self._fail(run, Internal(why))
        else:
            heapq.heappush(self._waiting, (run.order, run))

    def _fail(self, run: _Run, error: MeshError) -> None:
        self._leave(run)
        if self._runs.pop(run.stream, None) is not None:
            self._news.append((run.stream, error))

    def _tell_news(self) -> None:
        if self._news:
            news, self._news = self._news, []
            self._hand_over(news)

    def _end(self) -> None:
        """Whatever was submitted is answered, also what comes in this moment."""
        self._pipeline.drain([run.handle for run in self._running])
        why = Internal(self.failure) if self.failure else Unavailable("the engine was closed")
        streams = list(self._runs)
        while not self._inbox.empty():
            kind, what = self._inbox.get()
            if kind == "submit":
                streams.append(what[0])
        self._runs.clear()
        self._running.clear()
        self._waiting.clear()
        self._news += [(stream, why) for stream in streams]
        self._tell_news()
        del self._pipeline  # here, where it was made; streams may know this object for long


def _can_continue(run: _Run) -> bool:
    """Whether what was told can be put behind the prompt: then it need not be computed again token by token.

    Not when the engine's state depends on how the answer began: guides, penalties, the place in a seeded sequence.
    """
    sampling = run.stream.request.sampling
    return (
        0 < len(run.told) < run.max_tokens
        and sampling.guide is None
        and (sampling.seed is None or sampling.temperature == 0)
        and sampling.min_tokens <= len(run.told)
        and (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (0, 0, 1)
    )


def _not_repeated(run: _Run) -> MeshError:
    if run.stream.request.told:
        return Conflict("the answer does not begin here as another replica has begun it, so it cannot be continued")
    return Internal("the generation could not be repeated after the engine had failed")


def _cut_at_stop_token(output: Output, stop: Sequence[int]) -> FinishReason | None:
    """The engine forgets stop tokens when it is to ignore the model's own end."""
    for place, token in enumerate(output.tokens):
        if token in stop:
            del output.tokens[place + 1 :], output.logprobs[place + 1 :]
            return "stop"
    return None
