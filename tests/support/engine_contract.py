"""What every engine has to do with the tiny chat model. A class of tests gives it a fixture `engine`: a started one."""

from __future__ import annotations

import asyncio
import math
import random

import pytest

from serving.errors import InvalidArgument
from serving.llm.engine import Engine, EngineLoad
from tests.support.generations import PROMPT, all_of, answer, started_tokens, submit
from tests.support.waiting import eventually_async


class EngineContract:
    RACES = 1000  # submissions that race with their cancellations
    CONTEXT = 2048

    async def test_it_says_what_it_can(self, engine: Engine) -> None:
        can = engine.capabilities
        assert (can.context_tokens, can.logprobs, can.priorities, can.chat, can.prefix_cache) == (
            self.CONTEXT,
            True,
            True,
            True,
            True,
        )
        assert can.guides == {"json_object", "json_schema", "regex", "grammar"}
        assert can.cache_tokens >= can.context_tokens
        assert engine.failure == ""

    async def test_an_answer_has_as_many_tokens_as_asked_and_one_end(self, engine: Engine) -> None:
        assert await all_of(submit(engine, max_tokens=7)) == ((await answer(engine, max_tokens=30))[:7], "length")
        assert engine.load().running == 0

    async def test_the_same_prompt_is_answered_the_same_beside_sixteen_others(self, engine: Engine) -> None:
        alone = await answer(engine, max_tokens=40)
        others = [submit(engine, PROMPT[: 5 + 2 * i], max_tokens=50) for i in range(16)]
        assert await answer(engine, max_tokens=40) == alone
        assert [len((await all_of(other))[0]) for other in others] == [50] * 16

    async def test_seeds_are_reproducible_beside_others_and_all_bits_of_them_count(self, engine: Engine) -> None:
        async def sampled(seed: int | None) -> tuple[int, ...]:
            return tuple(await answer(engine, temperature=1.0, seed=seed))

        first = await sampled(5)
        many = await asyncio.gather(*(sampled(seed) for seed in (5, 6, 5 + 2**32, -5, 2**63, 5, -1, None, None)))
        assert many[0] == many[5] == first
        assert many[6] == await sampled(-1)
        assert len(set(many)) == 8

    async def test_it_stops_at_the_wanted_tokens_also_when_the_models_end_is_ignored(self, engine: Engine) -> None:
        tokens = await answer(engine)
        place = next(i for i, token in enumerate(tokens) if i and token not in tokens[:i])  # the model may end soon
        for ignore in (False, True):
            stopped = await all_of(submit(engine, stop_token_ids=(tokens[place],), ignore_eos=ignore))
            assert stopped == (tokens[: place + 1], "stop")

    async def test_logarithms_of_probabilities_come_when_asked_for(self, engine: Engine) -> None:
        events = [event async for event in submit(engine, max_tokens=5, logprobs=True)]
        assert all(len(event.logprobs) == len(event.tokens) for event in events)
        assert all(-math.inf < value <= 0 for event in events for value in event.logprobs)
        assert len({value for event in events for value in event.logprobs}) > 1
        assert [event.logprobs async for event in submit(engine, max_tokens=2)] == [(), ()]

    async def test_what_cannot_be_computed_is_refused_before_it_runs(self, engine: Engine) -> None:
        most = engine.capabilities.context_tokens
        for wrong, message in (
            ({"max_tokens": 0}, "max_tokens: at least 1"),
            ({"prompt": ()}, "no tokens"),
            ({"prompt": (1, 10**6)}, "outside of the vocabulary"),
            ({"prompt": (1, -1)}, "outside of the vocabulary"),
            ({"prompt": [30] * most}, f"has {most} tokens, but prompt and answer together may have {most}"),
            ({"top_logprobs": 1000}, "top_logprobs: the engine"),
        ):
            with pytest.raises(InvalidArgument, match=message):
                submit(engine, **wrong)
        with pytest.raises(InvalidArgument, match="refuses the request"):
            await answer(engine, repetition_penalty=-1.0)

    async def test_an_answer_ends_with_the_context(self, engine: Engine) -> None:
        prompt = [30] * (engine.capabilities.context_tokens - 1)
        assert await all_of(submit(engine, prompt, max_tokens=50)) == ([(await answer(engine, prompt))[0]], "length")

    async def test_a_cancelled_generation_ends_and_gives_its_place_back(self, engine: Engine) -> None:
        first = submit(engine, max_tokens=1500)
        await started_tokens(first, 3)
        await eventually_async(lambda: engine.load().running == 1, what="the engine counts the generation")
        first.cancel()
        first.cancel()
        assert await all_of(first) == ([], None)
        assert len(await answer(engine, max_tokens=5)) == 5
        first.cancel()
        assert engine.load() == EngineLoad(0, 0, engine.load().cache_usage)

    async def test_a_generation_that_is_cancelled_at_once_ends(self, engine: Engine) -> None:
        generation = submit(engine, max_tokens=1500)
        waiter = asyncio.create_task(all_of(generation))
        generation.cancel()
        assert await waiter == ([], None)
        await eventually_async(lambda: engine.load().running + engine.load().waiting == 0, what="it is gone")

    async def test_many_submissions_race_with_their_cancellations(self, engine: Engine) -> None:
        chance = random.Random(0)
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

        await asyncio.gather(*(one(number) for number in range(self.RACES)))
        assert await answer(engine, max_tokens=12) == expected
        assert (engine.load().running, engine.load().waiting) == (0, 0)
