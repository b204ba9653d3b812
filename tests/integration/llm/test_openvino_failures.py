"""Steps that raise for no request's fault: a real pipeline whose steps are made to fail."""

from __future__ import annotations

import asyncio

import pytest
from llm_engine_driver import started

from serving.errors import Internal, Unavailable
from serving.llm.openvino_pipeline import Pipeline
from tests.support.generations import all_of, answer, started_tokens, submit

STEP = Pipeline.step


async def test_generations_start_again_where_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    async with started() as engine:
        kinds = ({}, {"temperature": 1.0, "seed": 3}, {"repetition_penalty": 1.3}, {"presence_penalty": 0.4})
        wanted = [await answer(engine, max_tokens=40, **kind) for kind in kinds]
        steps = 0

        def sometimes(pipeline: Pipeline) -> None:
            nonlocal steps
            STEP(pipeline)
            steps += 1
            if steps in (10, 30, 60):
                raise RuntimeError("injected")

        monkeypatch.setattr(Pipeline, "step", sometimes)
        assert await asyncio.gather(*(answer(engine, max_tokens=40, **kind) for kind in kinds)) == wanted
        assert steps > 60
        assert engine.failure == ""


async def test_an_engine_that_fails_at_each_step_says_so_and_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    async with started(max_running=2) as engine:
        generations = [submit(engine, max_tokens=1500) for _ in range(4)]
        await started_tokens(generations[0], 2)

        def never(_: Pipeline) -> None:
            raise RuntimeError("injected")

        monkeypatch.setattr(Pipeline, "step", never)
        for generation in generations:
            with pytest.raises(Internal, match="the engine fails at each step: injected"):
                await all_of(generation)
        assert "injected" in engine.failure
        with pytest.raises(Unavailable, match="fails at each step"):
            submit(engine)
