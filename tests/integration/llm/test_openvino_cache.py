"""The cache of keys and values: what does not fit is refused, what does not fit together takes turns."""

from __future__ import annotations

import asyncio

import pytest
from llm_engine_driver import MODEL, started

from serving.errors import FailedPrecondition, InvalidArgument
from serving.llm.openvino_config import OpenVinoOptions, find_model
from serving.llm.openvino_engine import OpenVinoEngine
from tests.support.generations import all_of, answer, started_tokens, submit


def smallest_cache(tokens: int) -> dict[str, int]:
    """MiB for at least `tokens`, and how many there are then."""
    options = OpenVinoOptions()
    files = find_model(MODEL, options)
    megabytes = -(-tokens // options.block_tokens * files.block_bytes // (1 << 20))
    return {"cache_mb": max(1, megabytes)}


async def test_a_prompt_longer_than_the_cache_is_refused_with_both_numbers() -> None:
    async with started(**smallest_cache(512)) as engine:
        most = engine.capabilities.context_tokens
        assert 512 <= most < 2048
        with pytest.raises(InvalidArgument, match=f"has {most + 1} tokens, .* together may have {most}"):
            submit(engine, [30] * (most + 1))
        tokens, finish = await all_of(submit(engine, [30] * (most - 10), max_tokens=500))
        assert (len(tokens), finish) == (10, "length")


async def test_requests_whose_caches_do_not_fit_together_both_end_right() -> None:
    async with started(**smallest_cache(512), prefix_cache=False) as engine:
        half = engine.capabilities.context_tokens // 2
        prompts = [[30 + number] * (half - 150) for number in range(4)]
        alone = [await answer(engine, prompt, max_tokens=400) for prompt in prompts]
        assert await asyncio.gather(*(answer(engine, prompt, max_tokens=400) for prompt in prompts)) == alone


async def test_a_cancellation_while_the_cache_is_full_costs_the_others_nothing() -> None:
    async with started(**smallest_cache(512), prefix_cache=False) as engine:
        half = engine.capabilities.context_tokens // 2
        prompts = [[30 + number] * (half - 100) for number in range(3)]
        alone = await answer(engine, prompts[2], max_tokens=300)
        for wait in range(0, 200, 8):
            first = submit(engine, prompts[0], max_tokens=300)
            other = submit(engine, prompts[2], max_tokens=300)
            third = submit(engine, prompts[1], max_tokens=300)
            await started_tokens(first, 1 + wait)
            first.cancel()
            third.cancel()
            assert await all_of(other) == (alone, "length")


async def test_a_shared_prefix_is_not_computed_again() -> None:
    async with started() as engine:
        prompt = [30 + i % 200 for i in range(1500)]

        async def time_to_first_token() -> float:
            begin = asyncio.get_running_loop().time()
            await answer(engine, prompt, max_tokens=1)
            return asyncio.get_running_loop().time() - begin

        first = await time_to_first_token()
        assert min([await time_to_first_token() for _ in range(5)]) < first / 2


async def test_a_cache_that_holds_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.llm.openvino_config._BLOCK_TOKENS", {"CPU": 1 << 20})
    with pytest.raises(FailedPrecondition, match="cache_mb: 1 MiB do not hold one block"):
        await OpenVinoEngine(MODEL, {"cache_mb": 1}).start(lambda _: None)
