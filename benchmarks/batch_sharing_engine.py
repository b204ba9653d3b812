"""One engine with the tiny chat model that online generations and a batch share, in the engine's own time.

The clock is the processor time of this process, which steps the engine itself: what else the machine does counts for
nothing, and no server and no client is in the figures. Online generations come at random (an open loop, the same
moments for both sides), 30 % of what the engine computes at the most, alone and beside a batch of which 64 rows are
always there, in turn; ratios are those of a round.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from benchmarks.batch_sharing import TOKENS, Online, online_cell, online_table
from benchmarks.llm_parts import CHAT_MODEL
from benchmarks.results import keep_results
from serving.llm.engine import GenerationRequest, Sampling, TokenEvent
from serving.llm.generation_stream import GenerationStream
from serving.llm.guides import KnownGuides
from serving.llm.openvino_config import OpenVinoOptions, find_model
from serving.llm.openvino_loop import EngineLoop, News
from serving.llm.openvino_native import import_genai, load_native
from serving.llm.openvino_pipeline import Pipeline
from serving.llm.yielding import YieldingRoom

_PROMPT: Final = 40
_ROWS: Final = 64  # of the batch that are there at once
_SHARE: Final = 0.3
_SIDES: Final = ("alone", "beside")
_STALL_S: Final = 0.0005  # by which the clock is put on where nothing may be computed
_SAMPLING: Final = Sampling(TOKENS, temperature=0.0, ignore_eos=True)
Say = Callable[[str], None]


@dataclass(slots=True)
class Seen:
    """Of one generation, by the engine's clock."""

    at: float
    first: float = 0.0
    ended: float = 0.0


class EngineTime:
    """An engine that is stepped here, and its time."""

    def __init__(self, pipeline: Pipeline, options: OpenVinoOptions) -> None:
        self._ahead_s = 0.0
        room = YieldingRoom(options.yielding(), options.max_running)
        self._loop = EngineLoop(pipeline, KnownGuides(), room, self._take, clock=self.now)
        self._online: dict[GenerationStream, Seen] = {}
        self._batch: set[GenerationStream] = set()
        self._chance = random.Random(1)
        self.rows = 0

    def now(self) -> float:
        return time.process_time() + self._ahead_s

    def round(self, seconds: float, arrivals: Sequence[float], rows: int, *, yields: bool = True) -> list[Seen]:
        """`arrivals` from now on, while so many rows are there; ends when the online ones have."""
        began = self.now()
        coming = [began + at for at in arrivals]
        found: list[Seen] = []
        while coming or self._online or self.now() < began + seconds:
            while coming and coming[0] <= self.now():
                seen = Seen(coming.pop(0))
                found.append(seen)
                self._online[self._submit(yields=False)] = seen
            while len(self._batch) < rows:
                self._batch.add(self._submit(yields=yields))
            if self._online or self._batch:
                self._turn()
            else:
                self._ahead_s += max(0.0, (coming[0] if coming else began + seconds) - self.now())
        return found

    def end(self) -> None:
        """Of the batch."""
        for stream in self._batch:
            self._loop.cancel(stream)
        self._batch.clear()
        while self._loop.load().running + self._loop.load().waiting:
            self._turn()

    def _turn(self) -> None:
        before = self.now()
        self._loop.turn()
        if not self._loop.load().running and self.now() - before < _STALL_S:
            self._ahead_s += _STALL_S

    def _submit(self, *, yields: bool) -> GenerationStream:
        prompt = [self._chance.randrange(20, 600) for _ in range(_PROMPT)]
        stream = GenerationStream(GenerationRequest("", prompt, _SAMPLING, yields=yields), lambda _: None)
        self._loop.submit(stream, TOKENS)
        return stream

    def _take(self, news: Sequence[News]) -> None:
        now = self.now()
        for stream, what in news:
            if not isinstance(what, TokenEvent):
                raise what
            if stream in self._online:
                seen = self._online[stream]
                seen.first = seen.first or now
                if what.finish:
                    seen.ended = now
                    del self._online[stream]
            elif what.finish and stream in self._batch:
                self._batch.remove(stream)
                self.rows += 1


def run(quick: bool, say: Say) -> str:
    """Two tables in Markdown."""
    rounds, seconds = (4, 2.0) if quick else (9, 5.0)
    options = OpenVinoOptions.of({"threads": 1, "cache_mb": 64})
    genai = import_genai()
    native, _ = load_native(genai)
    engine = EngineTime(Pipeline(genai, native, find_model(CHAT_MODEL, options), options), options)
    idle = [_idle(engine, seconds / 2) for _ in range(rounds)]
    say(f"without online generations: {idle}")
    best = statistics.median(alone for alone, _ in idle)
    pairs = []
    for number in range(rounds):
        pairs.append(_pair(engine, _SHARE * best, seconds, number))
        alone, beside = pairs[-1]
        say(f"round {number + 1} of {rounds}: first token {alone.first_p50:.2f}, {beside.first_p50:.2f} ms")
    rows = [{"side": side, **asdict(cell)} for pair in pairs for side, cell in zip(_SIDES, pair, strict=True)]
    keep_results("batch_sharing_engine", [*rows, *({"side": "idle", "best": a, "batch": b} for a, b in idle)])
    share = statistics.median(batch / alone for alone, batch in idle)
    batch = statistics.median(one for _, one in idle)
    head = "| no online generations, rows/s | not giving way | the batch | share |\n| --- | --- | --- | --- |"
    return f"{online_table(pairs)}\n\n{head}\n| | {best:,.0f} | {batch:,.0f} | {share:.2f} |"


def _idle(engine: EngineTime, seconds: float) -> tuple[float, float]:
    """Rows a second of an engine that is full: as others compute, and as a batch."""
    found = []
    for yields in (False, True):
        engine.round(2.5, (), 0)  # nobody is expected any more
        engine.round(0.2, (), _ROWS, yields=yields)
        before, began = engine.rows, engine.now()
        engine.round(seconds, (), _ROWS, yields=yields)
        found.append((engine.rows - before) / (engine.now() - began))
        engine.end()
    return found[0], found[1]


def _pair(engine: EngineTime, rate: float, seconds: float, number: int) -> tuple[Online, Online]:
    chance = random.Random(number)
    arrivals, at = [], 0.0
    while (at := at + chance.expovariate(rate)) < seconds:
        arrivals.append(at)
    found: dict[bool, Online] = {}
    for batch in (False, True) if number % 2 else (True, False):
        engine.round(0.5, (), _ROWS if batch else 0)
        before, began = engine.rows, engine.now()
        seen = engine.round(seconds, arrivals, _ROWS if batch else 0)
        times = [(one.first - one.at, one.ended - one.at) for one in seen]
        found[batch] = online_cell(times, (engine.rows - before) / (engine.now() - began))
        engine.end()
    return found[False], found[True]
