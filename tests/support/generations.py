"""Requests by token ids to an engine, and what comes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serving.llm.engine import Engine, FinishReason, Generation, GenerationRequest, Sampling

PROMPT = tuple(range(20, 60))


def submit(
    engine: Engine, prompt: Sequence[int] = PROMPT, *, priority: int = 0, yields: bool = False, **sampling: Any
) -> Generation:
    """Greedy and without the model's own end, unless `sampling` says otherwise."""
    wanted = Sampling(**{"max_tokens": 20, "temperature": 0.0, "ignore_eos": True, **sampling})
    return engine.submit(GenerationRequest("test", prompt, wanted, priority, yields=yields))


async def all_of(generation: Generation) -> tuple[list[int], FinishReason | None]:
    tokens: list[int] = []
    finish = None
    async for event in generation:
        assert finish is None, "an event came after the last one"
        tokens += event.tokens
        finish = event.finish
    return tokens, finish


async def answer(engine: Engine, prompt: Sequence[int] = PROMPT, **sampling: Any) -> list[int]:
    tokens, finish = await all_of(submit(engine, prompt, **sampling))
    assert finish is not None
    return tokens


async def text_of(engine: Engine, **sampling: Any) -> str:
    return engine.codec.decode(await answer(engine, **{"ignore_eos": False, **sampling}))


async def started_tokens(generation: Generation, count: int) -> list[int]:
    """The first ones, at least `count`; the generation goes on."""
    tokens: list[int] = []
    while len(tokens) < count:
        tokens += (await generation.__anext__()).tokens
    return tokens
