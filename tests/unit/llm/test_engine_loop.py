"""Who is in the engine's next step, of generations that give way and of others: a pipeline and a clock of the tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pytest

from serving.errors import MeshError
from serving.llm.engine import GenerationRequest, Guide, Sampling, TokenEvent
from serving.llm.generation_stream import GenerationStream
from serving.llm.guides import KnownGuides
from serving.llm.openvino_loop import EngineLoop, News
from serving.llm.openvino_pipeline import Output, Pipeline
from serving.llm.step_cost import StepCost
from serving.llm.yielding import Yielding, YieldingRoom

STEP_S = 0.1
PATIENCE_S = 30.0
SCHEMA = Guide("json_schema", '{"type": "object"}')


@dataclass(eq=False)
class Handle:
    prompt: Sequence[int]
    left: int
    cancelled: bool = False
    stepped: bool = False
    lost: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class FakePipeline:
    """Each step takes `STEP_S`, and brings everybody the token 7."""

    keeps_prefixes = True

    def __init__(self) -> None:
        self.now = 1000.0
        self.handles: list[Handle] = []
        self.broken = 0  # steps to come that raise
        self.loses = 0  # of those that are added: they find no place in the cache

    def add(self, prompt: Sequence[int], _sampling: Sampling, max_tokens: int) -> Handle:
        handle = Handle(tuple(prompt), max_tokens, lost=self.loses > 0)
        self.loses -= 1
        self.handles.append(handle)
        return handle

    def has_work(self) -> bool:
        self.handles = [one for one in self.handles if one.left > 0 and not one.cancelled]
        return bool(self.handles)

    def step(self) -> None:
        self.now += STEP_S
        if self.broken:
            self.broken -= 1
            raise RuntimeError("the step failed")
        for handle in self.handles:
            handle.stepped = True

    def read(self, handle: Handle) -> Output:
        if handle.lost:
            return Output([], [], lost=True)
        if not handle.stepped:
            return Output([], [])
        handle.left, handle.stepped = handle.left - 1, False
        return Output([7], [], finish=None if handle.left else "length")

    def drain(self, handles: Sequence[Handle]) -> bool:
        for handle in handles:
            handle.cancel()
        return not self.has_work()

    def cache_usage(self) -> float:
        return 0.0


class Driver:
    """A loop that takes turns when it is told to."""

    def __init__(self, *, most: int = 4, share: float = 0.5, each: float = 0.0) -> None:
        """`each`: what a generation more costs, of a step's time; 0: nobody knows."""
        self.pipeline, self.known = FakePipeline(), KnownGuides()
        self.room = YieldingRoom(Yielding(share, PATIENCE_S), most)
        if each:
            self.room.cost = _Cost(each)
        self.tokens: dict[GenerationStream, int] = {}
        self.errors: dict[GenerationStream, MeshError] = {}
        self.ended: set[GenerationStream] = set()
        self.loop = EngineLoop(
            cast(Pipeline, self.pipeline), self.known, self.room, self._take, lambda: self.pipeline.now
        )

    def _take(self, news: Sequence[News]) -> None:
        for stream, what in news:
            if isinstance(what, TokenEvent):
                self.tokens[stream] = self.tokens.get(stream, 0) + len(what.tokens)
            else:
                self.errors[stream] = what
            if not isinstance(what, TokenEvent) or what.finish:
                self.ended.add(stream)

    def submit(
        self, tokens: int = 10_000, *, yields: bool = False, prompt: int = 8, **sampling: Any
    ) -> GenerationStream:
        wanted = Sampling(**{"max_tokens": tokens, "temperature": 0.0, "ignore_eos": True, **sampling})
        stream = GenerationStream(
            GenerationRequest("test", range(prompt), wanted, yields=yields), lambda one: self.loop.cancel(one)
        )
        self.loop.submit(stream, tokens)
        return stream

    def row(self, tokens: int = 10_000, **options: Any) -> GenerationStream:
        return self.submit(tokens, yields=True, **options)

    def turn(self, seconds: float = STEP_S) -> None:
        """So long, at least one turn; where nothing is computed time passes all the same."""
        end = self.pipeline.now + seconds
        while True:
            before = self.pipeline.now
            load = self.loop.load()
            assert not (load.running or load.waiting) or self.loop.turn()  # it would wait for somebody
            if self.pipeline.now == before:
                self.pipeline.now += STEP_S
            if self.pipeline.now >= end - STEP_S / 2:
                return

    def calm(self) -> None:
        """Nobody is expected."""
        self.submit(1)
        self.turn(3.0)

    def begins_within(
        self, stream: GenerationStream, seconds: float, meanwhile: Callable[[], None] | None = None
    ) -> float:
        """How long it took."""
        began = self.pipeline.now
        while stream not in self.tokens:
            assert self.pipeline.now - began <= seconds, "it has not begun"
            if meanwhile is not None:
                meanwhile()
            self.turn()
        return self.pipeline.now - began


class _Cost(StepCost):
    """Known from the beginning, and it stays so."""

    def __init__(self, each: float) -> None:
        super().__init__()
        self.each = each

    def beside(self, _others: int, share: float) -> int:
        return int(share / self.each)


def test_a_plain_row_begins_beside_others_where_steps_allow_it() -> None:
    made = Driver(each=0.2)
    made.submit()
    made.turn()
    assert made.begins_within(made.row(), 5.0) < 5.0


@pytest.mark.parametrize("sampling", [{"seed": 1, "temperature": 1.0}, {"presence_penalty": 1.0}, {"guide": SCHEMA}])
def test_a_row_that_cannot_be_paused_begins_beside_others_after_its_patience(sampling: dict[str, Any]) -> None:
    made = Driver(each=0.2)  # two of a batch may run beside others
    made.submit()
    made.turn()
    row = made.row(5, **sampling)
    took = made.begins_within(row, PATIENCE_S + 1)
    assert took >= PATIENCE_S
    made.turn(1.0)
    assert made.tokens[row] == 5


def test_rows_that_cannot_be_paused_begin_one_after_the_other() -> None:
    made = Driver(each=0.2)
    made.submit()
    made.turn()
    rows = [made.row(20, seed=number, temperature=1.0) for number in range(3)]
    most = 0
    for _ in range(400):
        made.turn()
        most = max(most, made.loop.load().running)
    assert made.ended == set(rows)
    assert most == 2


def test_a_queue_of_others_that_never_ends_leaves_a_place_for_who_has_waited() -> None:
    made = Driver(most=2)

    def full_queue() -> None:
        while made.loop.load().running + made.loop.load().waiting < 8:
            made.submit(5)

    full_queue()
    made.turn()
    rows = [made.row(20, prompt=100) for _ in range(2)]
    took = made.begins_within(rows[0], PATIENCE_S + 5, full_queue)
    assert took >= PATIENCE_S
    while rows[0] not in made.ended:
        full_queue()
        made.turn()
    assert made.begins_within(rows[1], 2.0, full_queue) <= 2.0
    assert made.loop.load().waiting >= 4


def test_prompts_of_others_in_each_step_do_not_keep_who_has_waited_from_beginning() -> None:
    made = Driver(most=8, each=0.1)

    def arriving() -> None:
        made.submit(2)

    arriving()
    made.turn()
    took = made.begins_within(made.row(5), PATIENCE_S + 1, arriving)
    assert took >= PATIENCE_S


def test_who_has_waited_among_rows_alone_can_still_be_paused() -> None:
    made = Driver(most=2, share=0.0)
    made.calm()
    rows = [made.row(400) for _ in range(4)]
    made.turn(60.0)
    assert rows[2] in made.tokens
    other = made.submit(50)
    made.turn(1.0)
    assert other in made.tokens
    assert made.loop.load().paused == 2


def test_a_paused_row_that_was_set_back_does_not_keep_new_guides_waiting() -> None:
    made = Driver()
    made.calm()
    row = made.row()
    made.turn(1.0)
    made.pipeline.broken = 1
    made.turn()
    guided = made.submit(5, guide=SCHEMA)
    assert made.begins_within(guided, 2.0) < 2.0
    made.turn(10.0)
    assert made.tokens[row] > 20


def test_others_that_were_set_back_come_before_new_guides() -> None:
    made = Driver(most=1)
    made.submit(5)
    made.turn(0.2)
    made.pipeline.broken = 1
    guided = made.submit(5, guide=SCHEMA)
    made.turn()
    assert made.loop.load().running == 0
    made.turn(0.3)
    assert guided not in made.tokens
    assert made.begins_within(guided, 2.0) < 2.0


def test_a_guide_whose_first_try_lost_its_place_is_tried_again() -> None:
    made = Driver()
    made.pipeline.loses = 1
    guided = made.submit(5, guide=SCHEMA)
    assert made.begins_within(guided, 2.0) < 2.0


def test_cancelled_ones_do_not_pile_up_where_no_place_frees() -> None:
    made = Driver(most=1)
    other = made.submit()
    made.turn()
    for _ in range(20):
        for stream in [made.submit() for _ in range(50)] + [made.row() for _ in range(50)]:
            stream.cancel()
        made.turn()
    assert len(made.loop._waiting) <= 200
    assert len(made.loop._patient) <= 200
    assert made.tokens[other] > 20


def test_prompts_of_rows_take_the_share_of_the_time_all_together() -> None:
    made = Driver(most=8, share=0.05, each=0.01)  # after a prompt of 0.1 s the next one waits for 2 s
    made.submit()
    made.turn()
    fixed = made.row(seed=1, temperature=1.0)
    made.turn(PATIENCE_S - 0.5)
    first = made.row()
    made.begins_within(first, 0.2)
    began = made.pipeline.now
    made.begins_within(fixed, 1.0)  # its patience ends before the next one's time
    made.begins_within(made.row(), 5.0)
    assert made.pipeline.now - began >= 3.9
