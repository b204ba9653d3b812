"""The OpenVINO engine with a real model: answers, reproducibility, cancellation, end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from llm_engine_driver import MODEL, started

from serving.errors import FailedPrecondition, InvalidArgument, Unavailable
from serving.llm.engine import Engine, EngineLoad
from serving.llm.openvino_engine import OpenVinoEngine
from tests.support.engine_contract import EngineContract
from tests.support.generations import all_of, answer, started_tokens, submit


class TestOpenVinoContract(EngineContract):
    @pytest.fixture
    async def engine(self) -> AsyncIterator[Engine]:
        async with started(max_running=8) as engine:
            yield engine


async def test_it_says_what_it_loads_and_what_it_can() -> None:
    told: list[str] = []
    engine = OpenVinoEngine(MODEL, {"threads": 1, "cache_mb": 16})
    with pytest.raises(FailedPrecondition, match="not started"):
        _ = engine.capabilities
    await engine.start(told.append)
    try:
        assert told[0] == "loading tiny-chat.gguf"
        assert told[-1].startswith("ready: 2048 tokens of context")
        can = engine.capabilities
        assert can.engine.startswith("openvino 20")
        assert can.context_tokens == 2048
        assert (can.logprobs, can.top_logprobs, can.logit_bias, can.priorities, can.chat) == (
            True,
            0,
            False,
            True,
            True,
        )
        assert can.guides == {"json_object", "json_schema", "regex", "grammar"}
        assert engine.failure == ""
    finally:
        await engine.close()


async def test_what_it_cannot_do_is_refused_before_it_runs() -> None:
    async with started(context_tokens=100) as engine:
        assert engine.capabilities.context_tokens == 100
        for wrong, message in (
            ({"logit_bias": {3: 1.0}}, "logit_bias: the engine openvino .* cannot"),
            ({"top_logprobs": 2}, "top_logprobs: the engine"),
            ({"max_tokens": 0}, "max_tokens: at least 1"),
            ({"prompt": ()}, "no tokens"),
            ({"prompt": (1, 10**6)}, "outside of the vocabulary"),
            ({"prompt": (1, -1)}, "outside of the vocabulary"),
            ({"prompt": [30] * 100}, "has 100 tokens, but prompt and answer together may have 100"),
        ):
            with pytest.raises(InvalidArgument, match=message):
                submit(engine, **wrong)
        with pytest.raises(InvalidArgument, match="refuses the request"):
            await answer(engine, repetition_penalty=-1.0)
        assert await all_of(submit(engine, [30] * 99, max_tokens=50)) == (
            [(await answer(engine, [30] * 99))[0]],
            "length",
        )


async def test_a_cancelled_generation_ends_and_gives_its_place_back() -> None:
    async with started(max_running=1) as engine:
        first = submit(engine, max_tokens=1500)
        second = submit(engine, max_tokens=5)
        await started_tokens(first, 3)
        assert engine.load() == EngineLoad(1, 1, engine.load().cache_usage)
        first.cancel()
        first.cancel()
        assert await all_of(first) == ([], None)
        assert len((await all_of(second))[0]) == 5
        first.cancel()
        assert engine.load().running == engine.load().waiting == 0


async def test_who_waits_for_a_token_wakes_up_when_the_generation_is_cancelled() -> None:
    async with started(max_running=1) as engine:
        running = submit(engine, max_tokens=1500)
        waits = submit(engine)
        waiter = asyncio.create_task(all_of(waits))
        await started_tokens(running, 1)
        waits.cancel()
        assert await waiter == ([], None)


async def test_smaller_priorities_go_first() -> None:
    async with started(max_running=1) as engine:
        running = submit(engine, max_tokens=1500)
        await started_tokens(running, 1)
        order: list[int] = []

        async def one(priority: int) -> None:
            await all_of(submit(engine, max_tokens=2, priority=priority))
            order.append(priority)

        tasks = [asyncio.create_task(one(priority)) for priority in (3, 1, 2, 0)]
        await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(*tasks)
        assert order == [0, 1, 2, 3]


async def test_the_event_loop_goes_on_while_the_engine_computes_a_step() -> None:
    async with started(max_batched_tokens=2048) as engine:
        generation = submit(engine, [30 + i % 200 for i in range(1900)], max_tokens=1)
        first = asyncio.ensure_future(generation.__anext__())
        turns = 0
        while not first.done():  # one step, of some ten milliseconds
            await asyncio.sleep(0.001)
            turns += 1
        assert turns >= 10


async def test_closing_ends_what_runs_and_what_waits() -> None:
    engine = OpenVinoEngine(MODEL, {"threads": 1, "cache_mb": 16, "max_running": 2})
    await engine.start(lambda _: None)
    with pytest.raises(FailedPrecondition, match="started before"):
        await engine.start(lambda _: None)
    generations = [submit(engine, max_tokens=1500) for _ in range(5)]
    await started_tokens(generations[0], 2)
    await engine.close()
    await engine.close()
    for generation in generations:
        with pytest.raises(Unavailable, match="closed"):
            await all_of(generation)
    with pytest.raises(Unavailable, match="closed"):
        submit(engine)
    with pytest.raises(FailedPrecondition, match="started before"):
        await engine.start(lambda _: None)


async def test_closing_while_the_model_is_loaded_waits_for_it() -> None:
    engine = OpenVinoEngine(MODEL, {"threads": 1})
    start = asyncio.create_task(engine.start(lambda _: None))
    await asyncio.sleep(0)
    await engine.close()
    await start
    with pytest.raises(Unavailable):
        submit(engine)


async def test_memory_does_not_grow_with_the_number_of_requests() -> None:
    chance = random.Random(1)
    process = psutil.Process()
    async with started(max_running=16) as engine:

        async def some(count: int) -> int:
            prompts = [[chance.randrange(3, 300) for _ in range(20)] for _ in range(count)]
            await asyncio.gather(*(answer(engine, prompt, max_tokens=4) for prompt in prompts))
            return process.memory_info().rss

        before = [await some(500) for _ in range(2)][-1]  # the whole cache is in use now
        after = [await some(500) for _ in range(4)]
        assert min(after) - before < 4 << 20, [(value - before) >> 10 for value in after]


async def test_a_model_that_is_missing_or_cut_off_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match=r"holds no model \(nothing\); a folder with one \.gguf"):
        await OpenVinoEngine(tmp_path).start(lambda _: None)
    whole = (MODEL / "tiny-chat.gguf").read_bytes()
    for size in (3, 100, len(whole) // 2, len(whole) - 100):
        (tmp_path / "broken.gguf").write_bytes(whole[:size])
        engine = OpenVinoEngine(tmp_path)
        with pytest.raises(FailedPrecondition, match=r"broken\.gguf is "):
            await engine.start(lambda _: None)
        await engine.close()
