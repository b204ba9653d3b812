"""The OpenVINO engine with a real model: answers, reproducibility, cancellation, end."""

from __future__ import annotations

import asyncio
import math
import random
from pathlib import Path

import psutil
import pytest
from llm_engine_driver import MODEL, PROMPT, all_of, answer, started, started_tokens, submit

from serving.errors import FailedPrecondition, InvalidArgument, Unavailable
from serving.llm.engine import EngineLoad
from serving.llm.openvino_engine import OpenVinoEngine


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


async def test_an_answer_has_as_many_tokens_as_asked_and_one_end() -> None:
    async with started() as engine:
        assert await all_of(submit(engine, max_tokens=7)) == ((await answer(engine, max_tokens=30))[:7], "length")
        assert engine.load().running == 0


async def test_the_same_prompt_is_answered_the_same_beside_sixteen_others() -> None:
    async with started() as engine:
        alone = await answer(engine, max_tokens=40)
        others = [submit(engine, PROMPT[: 5 + 2 * i], max_tokens=50) for i in range(16)]
        assert await answer(engine, max_tokens=40) == alone
        assert [len((await all_of(other))[0]) for other in others] == [50] * 16


async def test_seeds_are_reproducible_beside_others_and_all_bits_of_them_count() -> None:
    async with started() as engine:

        async def sampled(seed: int | None) -> tuple[int, ...]:
            return tuple(await answer(engine, temperature=1.0, seed=seed))

        first = await sampled(5)
        many = await asyncio.gather(*(sampled(seed) for seed in (5, 6, 5 + 2**32, -5, 2**63, 5, None, None)))
        assert many[0] == many[5] == first
        assert len(set(many)) == 7


async def test_it_stops_at_the_wanted_tokens_also_when_the_models_end_is_ignored() -> None:
    async with started() as engine:
        tokens = await answer(engine)
        place = next(i for i, token in enumerate(tokens) if i > 3 and token not in tokens[:i])
        for ignore in (False, True):
            stopped = await all_of(submit(engine, stop_token_ids=(tokens[place],), ignore_eos=ignore))
            assert stopped == (tokens[: place + 1], "stop")


async def test_logarithms_of_probabilities_come_when_asked_for() -> None:
    async with started() as engine:
        events = [event async for event in submit(engine, max_tokens=5, logprobs=True)]
        assert all(len(event.logprobs) == len(event.tokens) for event in events)
        assert all(-math.inf < value <= 0 for event in events for value in event.logprobs)
        assert len({value for event in events for value in event.logprobs}) > 1
        assert [event.logprobs async for event in submit(engine, max_tokens=2)] == [(), ()]


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


async def test_a_thousand_submissions_race_with_their_cancellations() -> None:
    chance = random.Random(0)
    async with started(max_running=8) as engine:
        expected = await answer(engine, max_tokens=12)

        async def one(number: int) -> None:
            generation = submit(engine, max_tokens=12, priority=number % 3)
            if chance.random() < 0.6:
                for _ in range(chance.randrange(40)):
                    await asyncio.sleep(0)
                generation.cancel()
                assert await all_of(generation) in (([], None), (expected, "length"))
            else:
                assert await all_of(generation) == (expected, "length")

        await asyncio.gather(*(one(number) for number in range(1000)))
        assert await answer(engine, max_tokens=12) == expected
        assert (engine.load().running, engine.load().waiting) == (0, 0)


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
