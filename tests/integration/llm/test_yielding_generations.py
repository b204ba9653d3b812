"""Generations of batches beside others in one engine: they are paused, go on where they were, and nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise
from typing import Any

import httpx
import pytest
from llm_engine_driver import MODEL, started

from serving.errors import Unavailable
from serving.llm.engine import Engine, Generation, Sampling
from serving.llm.engines import make_engine
from serving.llm.openvino_pipeline import Pipeline
from serving.llm.step_cost import StepCost
from tests.support.generations import PROMPT, all_of, answer, started_tokens, submit
from tests.support.llm_server import LlmServer
from tests.support.step_gate import StepGate
from tests.support.waiting import eventually, eventually_async

LONG = 1500  # tokens: seconds
NEVER = {"batch_share": 0.0}  # whatever a step costs, none is computed beside others


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> StepGate:
    made, step = StepGate(), Pipeline.step

    def waits(pipeline: Pipeline) -> None:
        made.wait()
        step(pipeline)

    monkeypatch.setattr(Pipeline, "step", waits)
    return made


@contextlib.asynccontextmanager
async def others_running(engine: Engine) -> AsyncIterator[Generation]:
    """One that does not give way, and has begun."""
    generation = submit(engine, tuple(range(70, 90)), max_tokens=LONG)
    await started_tokens(generation, 1)
    try:
        yield generation
    finally:
        generation.cancel()


OTHER = tuple(range(70, 90))


async def paused(engine: Engine, gate: StepGate, count: int = 1, **sampling: Any) -> tuple[list[Generation], list[int]]:
    """Generations of a batch with at least 10 tokens told (those of the first one), paused for another. For held
    steps."""
    wanted = {"max_tokens": 100, **sampling}
    batch = [submit(engine, (*PROMPT, number), yields=True, **wanted) for number in range(count)]
    gate.let(12)
    tokens = [await started_tokens(one, 10) for one in batch]
    submit(engine, OTHER, max_tokens=20)
    gate.let(3)  # less than the other one needs, more than they may still have had
    await eventually_async(lambda: engine.load().paused == count, what=f"{count} are paused")
    assert engine.load().running == 1
    assert engine.load().pauses == count
    return batch, tokens[0]


SAMPLINGS = [{}, {"logprobs": True}, {"min_tokens": 5}, {"min_tokens": 40}, {"temperature": 1.0}]


@pytest.mark.parametrize("sampling", SAMPLINGS)
async def test_a_paused_generation_goes_on_where_it_was(sampling: dict[str, Any], gate: StepGate) -> None:
    async with started(**NEVER) as engine:
        with gate.held():
            (generation,), tokens = await paused(engine, gate, **sampling)
        rest, finish = await all_of(generation)
        assert (len(tokens) + len(rest), finish) == (100, "length")
        if not sampling.get("temperature"):
            assert tokens + rest == await answer(engine, (*PROMPT, 0), max_tokens=100, **sampling)


async def test_all_of_a_batch_are_paused_and_all_go_on(gate: StepGate) -> None:
    async with started(**NEVER, max_running=4) as engine:
        with gate.held():
            batch, _ = await paused(engine, gate, 4)
        for one in batch:
            assert (await all_of(one))[1] == "length"


async def test_paused_often_an_answer_is_the_same(gate: StepGate) -> None:
    async with started(**NEVER) as engine:
        wanted = await answer(engine, max_tokens=200)
        tokens: list[int] = []
        with gate.held():
            generation = submit(engine, yields=True, max_tokens=200)
            for _ in range(4):  # of at most 42 tokens
                gate.let(30)
                tokens += await started_tokens(generation, 20)
                other = submit(engine, tuple(range(60, 80)), max_tokens=5)
                gate.let(12)
                assert len((await all_of(other))[0]) == 5
            assert engine.load().pauses == 4
        assert tokens + (await all_of(generation))[0] == wanted


@pytest.mark.parametrize("sampling", [{"temperature": 1.0, "seed": 3}, {"repetition_penalty": 1.3}])
async def test_what_could_not_go_on_in_the_middle_is_not_paused(sampling: dict[str, Any], gate: StepGate) -> None:
    async with started(**NEVER) as engine:
        wanted = await answer(engine, max_tokens=60, **sampling)
        await no_others(engine)
        with gate.held():
            generation = submit(engine, yields=True, max_tokens=60, **sampling)
            gate.let(12)
            tokens = await started_tokens(generation, 5)
            other = submit(engine, OTHER, max_tokens=30)
            gate.let(10)
            await started_tokens(other, 2)
            assert engine.load().running == 2
        assert tokens + (await all_of(generation))[0] == wanted
        assert engine.load().pauses == 0


async def no_others(engine: Engine) -> None:
    """Until the engine expects none in the next moment: it says so by beginning what it could not pause."""
    await all_of(submit(engine, yields=True, max_tokens=1, temperature=1.0, seed=1))


async def test_what_cannot_be_paused_does_not_take_all_places_and_begins_beside_nobody() -> None:
    async with started(**NEVER, max_running=4) as engine:
        await no_others(engine)
        batch = [submit(engine, yields=True, max_tokens=LONG, temperature=1.0, seed=number) for number in range(6)]
        for one in batch[:3]:
            await started_tokens(one, 1)
        assert engine.load().running == 3
        async with others_running(engine) as other:
            batch[0].cancel()
            await started_tokens(other, 100)
            assert engine.load().running == 3  # two of the batch and the other
        for one in batch:
            one.cancel()


async def test_a_paused_generation_can_be_cancelled(gate: StepGate) -> None:
    async with started(**NEVER) as engine:
        with gate.held():
            (generation,), _ = await paused(engine, gate)
            generation.cancel()
            assert [event async for event in generation] == []
            gate.let(2)
            await eventually_async(lambda: engine.load().waiting == 0, what="it is forgotten")
            assert engine.load().paused == 0
        assert len(await answer(engine)) == 20


async def test_an_engine_that_is_closed_ends_what_is_paused(gate: StepGate) -> None:
    async with started(**NEVER) as engine:
        with gate.held():
            (generation,), _ = await paused(engine, gate)
            closing = asyncio.ensure_future(engine.close())
            await asyncio.sleep(0)
        await closing
        with pytest.raises(Unavailable, match="closed"):
            await all_of(generation)


async def test_no_more_are_paused_than_ran_and_those_are_finished_first() -> None:
    async with started(**NEVER, max_running=4) as engine:
        most = 0
        ended: list[int] = []

        async def row(number: int) -> None:
            await all_of(submit(engine, (*PROMPT, number), yields=True, max_tokens=30))
            ended.append(number)

        rows = [asyncio.create_task(row(number)) for number in range(12)]
        while not all(one.done() for one in rows):
            await answer(engine, tuple(range(60, 80)), max_tokens=5)
            most = max(most, engine.load().paused)
            await asyncio.sleep(0.01)
        assert 1 <= most <= 4
        assert engine.load().pauses > 0
        assert set(ended[:4]) <= set(range(8))


async def test_who_has_waited_for_long_is_computed_beside_others_one_after_the_other() -> None:
    async with started(**NEVER, batch_patience_s=0.3, max_running=8) as engine, others_running(engine):
        over = asyncio.Event()

        async def more() -> None:
            """One begins before another ends."""
            while not over.is_set():
                async with others_running(engine) as other:
                    await started_tokens(other, 200)

        traffic = [asyncio.create_task(more()) for _ in range(2)]
        rows = [submit(engine, (*PROMPT, number), yields=True, max_tokens=30) for number in range(4)]
        wanted = asyncio.gather(*map(all_of, rows))
        most = 0
        while not wanted.done():
            most = max(most, engine.load().running)
            await asyncio.sleep(0.005)
        assert [len(tokens) for tokens, _ in await wanted] == [30] * 4
        assert not any(one.done() for one in traffic)
        assert most <= 4  # three others and one
        over.set()
        await asyncio.gather(*traffic)


async def test_a_long_prompt_is_computed_in_pieces_where_others_are_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = tuple(20 + number * number % 83 for number in range(300))
    async with started(**NEVER) as engine:
        wanted = await answer(engine, prompt, max_tokens=30)
    add, lengths = Pipeline.add, []

    def noted(pipeline: Pipeline, tokens: Sequence[int], sampling: Sampling, max_tokens: int) -> Any:
        lengths.append(len(tokens))
        return add(pipeline, tokens, sampling, max_tokens)

    async with started(batch_share=0.0, batch_patience_s=0.0) as engine, others_running(engine):
        monkeypatch.setattr(Pipeline, "add", noted)
        tokens, _ = await all_of(submit(engine, prompt, yields=True, max_tokens=30))
        assert tokens == wanted
        assert lengths[0] == 32
        assert lengths[-1] == 300
        assert all(longer - shorter <= 32 for shorter, longer in pairwise(lengths))


async def test_beside_others_run_as_many_as_their_steps_allow(gate: StepGate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StepCost, "beside", lambda *_: 2)
    async with started(batch_share=1e6, max_running=8) as engine:
        with gate.held():
            gate.let(3)
            async with others_running(engine):
                rows = [submit(engine, (*PROMPT, number), yields=True, max_tokens=LONG) for number in range(4)]
                gate.let(40)
                for row in rows[:2]:
                    await started_tokens(row, 1)
                gate.let(20)
                await started_tokens(rows[1], 15)
                assert engine.load().running == 3


async def test_cancelled_ones_do_not_pile_up_behind_others() -> None:
    async with started(**NEVER) as engine, others_running(engine) as other:
        for _ in range(20):
            batch = [submit(engine, yields=True) for _ in range(50)]
            for one in batch:
                one.cancel()
        await started_tokens(other, 20)
        await eventually_async(lambda: engine.load().waiting == 0, what="they are forgotten")
        loop = engine._engine_loop
        assert loop is not None
        assert len(loop._patient) <= 200


# ---------------------------------------------------------------------------------------------------- over HTTP


@pytest.fixture(scope="module")
def server() -> Iterator[LlmServer]:
    with LlmServer(make_engine("openvino", MODEL, {"threads": 1, "cache_mb": 16, **NEVER})) as running:
        yield running


@pytest.fixture
def slow(gate: StepGate) -> None:
    gate.each_s = 0.005


@pytest.fixture
def client(server: LlmServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.base_url, timeout=60) as made:
        yield made


def body(prompt: str, tokens: int, *, stream: bool = False) -> dict[str, object]:
    return {
        "model": "tiny",
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": stream,
    }


BATCH = {"x-mesh-class": "batch"}


@contextlib.contextmanager
def online_stream(client: httpx.Client, tokens: int = LONG) -> Iterator[Iterator[str]]:
    with client.stream("POST", "/completions", json=body("Once", tokens, stream=True)) as answer:
        lines = answer.iter_lines()
        next(lines)
        yield lines


@contextlib.contextmanager
def paused_for(
    server: LlmServer, client: httpx.Client, gate: StepGate, tokens: int = LONG
) -> Iterator[tuple[Iterator[str], Iterator[str]]]:
    """Lines of a batch's stream of 200 tokens that is paused for another, and of that one. Steps are held."""
    with gate.held(), contextlib.ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        gate.let(5)
        asked = body("A long tale", 200, stream=True)
        batch = stack.enter_context(client.stream("POST", "/completions", json=asked, headers=BATCH)).iter_lines()
        first = next(batch)
        entering = pool.submit(stack.enter_context, online_stream(client, tokens))
        try:
            eventually(lambda: server.engine.load().waiting == 1, timeout_s=60, what="the other one is there")
        finally:
            gate.let(5)
        others = entering.result(60)
        eventually(lambda: server.engine.load().paused == 1, timeout_s=60, what="it is paused")
        yield chain([first], batch), others


def test_a_stream_of_the_class_batch_stands_still_and_goes_on(
    server: LlmServer, client: httpx.Client, gate: StepGate
) -> None:
    wanted = client.post("/completions", json=body("A long tale", 200)).json()["choices"][0]["text"]
    with paused_for(server, client, gate, 20) as (batch, _):
        gate.free()
        assert "".join(text_in(line) for line in batch if line.startswith("data: {")) == wanted


def text_in(line: str) -> str:
    return "".join(choice["text"] for choice in json.loads(line.removeprefix("data: "))["choices"])


@pytest.mark.usefixtures("slow")
def test_a_deadline_ends_what_is_paused(server: LlmServer, client: httpx.Client) -> None:
    with online_stream(client):
        deadline = {**BATCH, "x-request-timeout": "0.2"}
        answer = client.post("/completions", json=body("Late", 50), headers=deadline)
        assert answer.status_code == 504
        assert server.engine.load().running == 1
    eventually(lambda: server.engine.load().waiting == 0, timeout_s=60, what="it is forgotten")


def test_a_replica_that_drains_finishes_what_is_paused(server: LlmServer, client: httpx.Client, gate: StepGate) -> None:
    try:
        with paused_for(server, client, gate, 200) as (batch, others):
            server.draining = True
            assert client.post("/completions", json=body("New", 5)).status_code == 503
            gate.free()
            assert list(others)[-2:] == ["data: [DONE]", ""]
            assert list(batch)[-2:] == ["data: [DONE]", ""]
    finally:
        server.draining = False


def test_times_are_those_of_requests_that_do_not_give_way(server: LlmServer, client: httpx.Client) -> None:
    def counted(name: str) -> float:
        return server.registry.get_sample_value(name) or 0.0

    def called() -> float:
        labels = {"method": "completions", "code": "OK"}
        return server.registry.get_sample_value("mesh_ingress_calls_total", labels) or 0.0

    names = ("mesh_llm_time_to_first_token_seconds_count", "mesh_llm_time_per_output_token_seconds_count")
    before, calls = [counted(name) for name in names], called()
    assert client.post("/completions", json=body("One", 5), headers=BATCH).status_code == 200
    assert [counted(name) for name in names] == before
    assert client.post("/completions", json=body("Two", 5)).status_code == 200
    assert [counted(name) for name in names] == [one + 1 for one in before]
    eventually(lambda: called() == calls + 2, timeout_s=60, what="both are counted")
    text = client.get(f"{server.root}/metrics").text
    assert f"mesh_llm_pauses_total {float(server.engine.load().pauses)}" in text
    assert "mesh_llm_engine_paused 0.0" in text
