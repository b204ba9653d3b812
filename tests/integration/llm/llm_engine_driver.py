"""What the tests of engines need: the model of the examples, a started engine, and requests by token ids."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from serving.llm.engine import FinishReason, Generation, GenerationRequest, Sampling
from serving.llm.openvino_engine import OpenVinoEngine

MODEL = Path(__file__).resolve().parents[3] / "examples" / "chat" / "model"
PROMPT = tuple(range(20, 60))


@contextlib.asynccontextmanager
async def started(**options: Any) -> AsyncIterator[OpenVinoEngine]:
    engine = OpenVinoEngine(MODEL, {"threads": 1, "cache_mb": 16, **options})
    await engine.start(lambda _: None)
    try:
        yield engine
    finally:
        await engine.close()


def submit(engine: OpenVinoEngine, prompt: Sequence[int] = PROMPT, *, priority: int = 0, **sampling: Any) -> Generation:
    """Greedy and without the model's own end, unless `sampling` says otherwise."""
    wanted = Sampling(**{"max_tokens": 20, "temperature": 0.0, "ignore_eos": True, **sampling})
    return engine.submit(GenerationRequest("test", prompt, wanted, priority))


async def all_of(generation: Generation) -> tuple[list[int], FinishReason | None]:
    tokens: list[int] = []
    finish = None
    async for event in generation:
        assert finish is None, "an event came after the last one"
        tokens += event.tokens
        finish = event.finish
    return tokens, finish


async def answer(engine: OpenVinoEngine, prompt: Sequence[int] = PROMPT, **sampling: Any) -> list[int]:
    tokens, finish = await all_of(submit(engine, prompt, **sampling))
    assert finish is not None
    return tokens


async def started_tokens(generation: Generation, count: int) -> list[int]:
    """The first ones, at least `count`; the generation goes on."""
    tokens: list[int] = []
    while len(tokens) < count:
        tokens += (await generation.__anext__()).tokens
    return tokens
