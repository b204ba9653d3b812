"""The engine's thread: takes submissions and cancellations, steps the pipeline while there is work, hands over events.

    waiting ──place free, at most one untried guide──▶ running ──last token──▶ finished
       ▲                                                  │ ├──cancelled──▶ (nothing more)
       └──── a step failed, or the cache was lost, ───────┘ └──guilty──▶ failed
             or it gives way (those of batches, to others)

A step that raises spoils all requests that were in it. Whoever may be guilty is known beforehand: a guide that was
never followed yet is tried alone among tried ones. The others start again where they were.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from serving.errors import Internal, InvalidArgument, MeshError, Unavailable
from serving.llm.engine import EngineLoad, Sampling, TokenEvent
from serving.llm.engine_errors import one_line
from serving.llm.generation_stream import GenerationStream
from serving.llm.guides import GuideRefused, KnownGuides
from serving.llm.openvino_pipeline import Output, Pipeline
from serving.llm.openvino_run import EngineRun, continues, cut_at_stop_token, not_repeated
from serving.llm.openvino_waiting import WaitingRuns
from serving.llm.yielding import YieldingRoom

_log = logging.getLogger(__name__)
_MOST_FAILURES = 3
_MOST_RESTARTS = 4
_PIECE_TOKENS = 32  # of a prompt: a block of the cache, which is as much as a pause costs
_ONE_TOKEN = Sampling(max_tokens=1, temperature=0.0, ignore_eos=True)

News = tuple[GenerationStream, "TokenEvent | MeshError"]


class EngineLoop:
    """`run` is the thread's; `submit`, `cancel`, `close` and `load` are called by others and never wait."""

    def __init__(
        self,
        pipeline: Pipeline,
        known: KnownGuides,
        room: YieldingRoom,
        hand_over: Callable[[Sequence[News]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`hand_over` is called in this thread, once after each step that has news. Raises when nobody listens.

        `clock`: seconds; also of what a step takes.
        """
        self._pipeline = pipeline
        self._known = known
        self._room = room
        self._hand_over = hand_over
        self._clock = clock
        self._inbox: queue.SimpleQueue[tuple[Literal["submit", "cancel", "close"], Any]] = queue.SimpleQueue()
        self._runs: dict[GenerationStream, EngineRun] = {}  # all that wait or run
        self._waiting = WaitingRuns(self._runs)
        self._patient = WaitingRuns(self._runs)  # those that give way
        self._running: dict[EngineRun, None] = {}
        self._others = 0  # of `_runs`: those that do not give way
        self._tried: EngineRun | None = None  # whose guide the engine may be unable to follow
        self._news: list[News] = []
        self._numbers = 0
        self._failures = 0  # steps that raised, one after the other
        self._pauses = 0
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
        return EngineLoad(running, waiting, self._cache_usage, self._patient.begun, self._pauses)

    _cache_usage = 0.0
    _places = 0  # for those that give way
    _prompts_at = float("-inf")  # when one of those that give way may begin beside others
    _stalled = False  # nothing may be computed now

    def run(self) -> None:
        """Returns after `close`, or when it cannot go on (`failure`). What was not finished has failed then."""
        try:
            while not self.failure and self.turn():
                pass
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it
            _log.exception("the engine's thread failed")
            self.failure = f"the engine failed inside: {type(error).__name__}"
        self._end()

    def turn(self) -> bool:
        """Commands, one step, and what it brought. False when it is to end."""
        if not self._take_commands():
            return False
        self._admit()
        self._stalled = not (self._running or self._pipeline.has_work())
        if not self._stalled:
            self._step()
        self._tell_news()
        return True

    def _take_commands(self) -> bool:
        """Waits for one when there is nothing else to do. False when it is to end."""
        wait_s: float | None = self._wait_s()
        while True:
            try:
                kind, what = self._inbox.get(block=wait_s != 0, timeout=wait_s)
            except queue.Empty:
                return True
            wait_s = 0
            if kind == "close":
                return False
            if kind == "cancel":
                self._drop(what)
            else:
                self._enter(*what)

    def _wait_s(self) -> float | None:
        """How long nothing can be done, unless a command comes; None: for ever."""
        if not self._runs:
            return 0 if self._pipeline.has_work() else None
        return self._room.rest_s(self._clock()) if self._stalled else 0

    def _enter(self, stream: GenerationStream, max_tokens: int) -> None:
        self._numbers += 1
        run = EngineRun(stream, max_tokens, self._numbers, self._clock(), told=list(stream.request.told))
        self._runs[stream] = run
        self._others += not run.yields
        self._wait(run)

    def _wait(self, run: EngineRun) -> None:
        (self._patient if run.yields else self._waiting).add(run)

    def _forget(self, stream: GenerationStream) -> EngineRun | None:
        run = self._runs.pop(stream, None)
        if run is not None:
            self._others -= not run.yields
        return run

    def _drop(self, stream: GenerationStream) -> None:
        run = self._forget(stream)
        if run is not None:
            self._leave(run)
        self._waiting.tidy()
        self._patient.tidy()

    def _leave(self, run: EngineRun) -> None:
        """The pipeline forgets it in its next step, without computing anything for it."""
        if run.handle is not None:
            run.handle.cancel()
            run.handle = None
        self._running.pop(run, None)
        if self._tried is run:
            self._tried = None

    def _admit(self) -> None:
        now = self._clock()
        self._places = self._room.places(self._others, now)
        self._give_way(now)
        due = self._find_due(now)
        self._fill(self._waiting, self._room.most - (due is not None))
        self._resume(now, due)

    def _give_way(self, now: float) -> None:
        """Pauses those that are too many: who began last goes first."""
        runs = self._giving_way()
        able = sorted((run for run in runs if run.can_pause and not run.due), key=lambda run: run.number, reverse=True)
        for run in able[: max(0, len(runs) - self._places)]:
            self._pauses += bool(run.told)
            run.since = now if run.flows else run.since
            self._leave(run)
            self._wait(run)

    def _giving_way(self) -> list[EngineRun]:
        """Of those that run."""
        return [run for run in self._running if run.yields]

    def _resume(self, now: float, due: EngineRun | None) -> None:
        """Those that give way: `due`, if there is one, else those that may begin."""
        left = self._places - len(self._giving_way())
        if due is not None:
            left = 1
            due.due = len(self._running) < self._room.most
        elif self._must_wait(now):
            return
        elif self._places < self._room.most:
            left = min(left, 1)  # one prompt in a step: others may come, and wait for its end
        if left > 0:
            self._fill(self._patient, min(self._room.most, len(self._running) + left))

    def _must_wait(self, now: float) -> bool:
        """Whether none that gives way may begin: somebody waits for the first token of a prompt that is computed, or
        their own had the share of the time."""
        if self._others and now < self._prompts_at:
            return True
        return any(not (run.flows or run.yields) for run in self._running)

    def _find_due(self, now: float) -> EngineRun | None:
        """Who gives way, has waited for too long and could not begin now: it gets the next place, before others, and is
        not paused again. One after the other."""
        first = self._patient.first()
        if first is None or self._places >= self._room.most or not self._room.is_due(first.since, now):
            return None
        if any(run.due for run in self._giving_way()) or not self._may_follow(first):
            return None
        held_up = len(self._waiting) > 0 or self._must_wait(now) or not self._may_begin(first)
        return first if held_up else None

    def _fill(self, waiting: WaitingRuns, most: int) -> None:
        """From those that wait to the engine in their order, until `most` run."""
        postponed = []
        while len(self._running) < most and (run := waiting.take()) is not None:
            if not self._may_begin(run) or not self._may_follow(run):
                postponed.append(run)
                continue
            untried = self._is_untried(run)
            if self._start(run) and untried:
                self._tried = run
        for run in postponed:
            waiting.add(run)

    def _may_begin(self, run: EngineRun) -> bool:
        """One that gives way, and could not be paused: where no others are expected, and some places stay free."""
        if not run.yields or run.due:
            return True
        runs = self._giving_way()
        if len(runs) >= self._places or continues(run.stream.request.sampling):
            return len(runs) < self._places
        fixed = sum(not continues(one.stream.request.sampling) for one in runs)
        return self._places == self._room.most and fixed < self._room.most_fixed

    def _is_untried(self, run: EngineRun) -> bool:
        return not self._known.is_proven(run.stream.request.sampling.guide)

    def _may_follow(self, run: EngineRun) -> bool:
        """A guide that may break a step: one at a time, and not before those that the last one set back got further.
        That is not those that are paused: they may be until this one is done, and are in no step of it."""
        if not self._is_untried(run):
            return True
        back = (one for one in self._runs.values() if one.behind and one is not run)
        return self._tried is None and not any(one.handle is not None or not one.yields for one in back)

    def _start(self, run: EngineRun) -> bool:
        request = run.stream.request
        prompt, sampling, max_tokens, run.again = request.prompt, request.sampling, run.max_tokens, len(run.told)
        if run.can_continue:
            prompt, max_tokens, run.again = [*prompt, *run.told], max_tokens - len(run.told), 0
            sampling = replace(sampling, min_tokens=max(0, sampling.min_tokens - len(run.told)))
        run.piece = self._piece(run)
        if run.piece:
            prompt, sampling, max_tokens = prompt[: run.piece], _ONE_TOKEN, 1
        try:
            run.handle = self._pipeline.add(prompt, sampling, max_tokens)
        except GuideRefused as error:
            self._refuse(run, error)
            return False
        except (RuntimeError, ValueError, TypeError, OverflowError) as error:
            self._fail(run, InvalidArgument(f"the engine refuses the request: {one_line(error)}"))
            return False
        self._running[run] = None
        run.flows = False
        return True

    def _piece(self, run: EngineRun) -> int:
        """Where the next piece ends of a prompt that others should not wait for; 0: it is computed at once."""
        end = run.warmed + _PIECE_TOKENS
        expected = run.yields and self._places < self._room.most  # others are there, or may come in a moment
        whole = not expected or run.told or not self._pipeline.keeps_prefixes
        return 0 if whole or end >= len(run.stream.request.prompt) else end

    def _refuse(self, run: EngineRun, error: GuideRefused) -> None:
        if run.stream.request.sampling.guide is not None:
            self._known.remember(run.stream.request.sampling.guide, error.why)
        self._fail(run, error)

    def _step(self) -> None:
        flowing = len(self._running) if all(run.flows for run in self._running) else 0
        began = self._clock()
        try:
            self._pipeline.step()
        except RuntimeError as error:
            self._heal(error)
            return
        took_s = self._clock() - began
        if flowing:
            self._room.cost.note(flowing, took_s)
        elif self._others and any(run.yields and not run.flows for run in self._running):
            self._prompts_at = max(self._prompts_at, began) + self._room.pause_s(took_s)
        self._cache_usage = self._pipeline.cache_usage()
        for run in list(self._running):
            output = self._pipeline.read(run.handle)
            if output.lost:
                self._start_again(run, why="the generation lost its place in the engine's cache again and again")
            elif output.tokens or output.finish:
                self._failures = 0
                run.flows = True
                if run.piece:
                    run.warmed = run.piece
                    self._leave(run)
                    self._wait(run)
                else:
                    self._take(run, output)

    def _take(self, run: EngineRun, output: Output) -> None:
        sampling = run.stream.request.sampling
        if self._tried is run and sampling.guide is not None:
            self._known.remember(sampling.guide)
            self._tried = None
        if run.again and not self._repeat(run, output):
            return
        finish = cut_at_stop_token(output, sampling.stop_token_ids) if sampling.ignore_eos else None
        finish = finish or output.finish
        if output.tokens or finish:
            run.told += output.tokens
            run.behind = False
            logprobs = tuple(output.logprobs) if sampling.logprobs else ()
            self._news.append((run.stream, TokenEvent(tuple(output.tokens), logprobs, finish=finish)))
        if finish:
            self._forget(run.stream)
            self._leave(run)

    def _repeat(self, run: EngineRun, output: Output) -> bool:
        """Takes away what was told before the generation started again. False when it became another one."""
        count = min(run.again, len(output.tokens))
        start = len(run.told) - run.again
        if output.tokens[:count] != run.told[start : start + count] or (output.finish and count < run.again):
            self._fail(run, not_repeated(run))
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

    def _start_again(self, run: EngineRun, why: str) -> None:
        """`why`: what it failed of when that happened too often; empty for what others were guilty of."""
        self._leave(run)
        run.behind = True
        run.restarts += bool(why)
        if run.restarts > _MOST_RESTARTS:
            self._fail(run, Internal(why))
        else:
            self._wait(run)

    def _fail(self, run: EngineRun, error: MeshError) -> None:
        self._leave(run)
        if self._forget(run.stream) is not None:
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
        self._patient.clear()
        self._others = 0
        self._news += [(stream, why) for stream in streams]
        self._tell_news()
        del self._pipeline  # here, where it was made; streams may know this object for long
