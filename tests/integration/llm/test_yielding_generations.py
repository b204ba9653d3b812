"""Generations of batches beside others in one engine: they are paused, go on where they were, and nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from llm_engine_driver import MODEL, started

from serving.errors import Unavailable
from serving.llm.engine import Engine, Generation
from serving.llm.engines import make_engine
from tests.support.generations import PROMPT, all_of, answer, started_tokens, submit
from tests.support.llm_server import LlmServer
from tests.support.waiting import eventually, eventually_async

LONG = 1500  # tokens: seconds
NEVER = {"batch_share": 0.0}  # whatever a step costs, none is computed beside others


@contextlib.asynccontextmanager
async def others_running(engine: Engine) -> AsyncIterator[Generation]:
    """One that does not give way, and has begun."""
    generation = submit(engine, tuple(range(70, 90)), max_tokens=LONG)
    await started_tokens(generation, 1)
    try:
        yield generation
    finally:
        generation.cancel()


async def paused(engine: Engine, count: int = 1) -> None:
    await eventually_async(lambda: engine.load().paused == count, what=f"{count} are paused")


async def begun(engine: Engine, count: int = 1, **sampling: object) -> list[Generation]:
    """Of a batch, each with its first tokens told."""
    generations = [
        submit(engine, (*PROMPT, number), yields=True, **{"max_tokens": 150, **sampling}) for number in range(count)
    ]
    for generation in generations:
        await started_tokens(generation, 1)
    return generations


@pytest.mark.parametrize(
    "sampling", [{}, {"logprobs": True}, {"min_tokens": 20}, {"min_tokens": 60}, {"temperature": 1.0}]
)
async def test_a_paused_generation_goes_on_where_it_was(sampling: dict[str, object]) -> None:
    async with started(**NEVER) as engine:
        generation = submit(engine, yields=True, max_tokens=150, **sampling)
        tokens = await started_tokens(generation, 30)
        async with others_running(engine):
            await paused(engine)
            assert engine.load().pauses == 1
        tokens += (await all_of(generation))[0]
        assert len(tokens) == 150
        if not sampling.get("temperature"):
            assert tokens == await answer(engine, max_tokens=150, **sampling)


async def test_others_have_the_engine_for_themselves() -> None:
    async with started(**NEVER, max_running=4) as engine:
        batch = await begun(engine, 4)
        async with others_running(engine) as other:
            await paused(engine, 4)
            await started_tokens(other, 50)
            assert engine.load().running == 1
        for one in batch:
            assert (await all_of(one))[1] == "length"


async def test_paused_often_an_answer_is_the_same() -> None:
    async with started(**NEVER) as engine:
        wanted = await answer(engine, max_tokens=200)
        generation = submit(engine, yields=True, max_tokens=200)
        tokens: list[int] = []
        while len(tokens) < 150:
            tokens += await started_tokens(generation, 20)
            assert len((await all_of(submit(engine, tuple(range(60, 80)), max_tokens=5)))[0]) == 5
        assert engine.load().pauses > 2
        assert tokens + (await all_of(generation))[0] == wanted


@pytest.mark.parametrize("sampling", [{"temperature": 1.0, "seed": 3}, {"repetition_penalty": 1.3}])
async def test_what_cannot_go_on_elsewhere_in_its_answer_is_not_paused(sampling: dict[str, object]) -> None:
    async with started(**NEVER) as engine:
        wanted = await answer(engine, max_tokens=200, **sampling)
        generation = submit(engine, yields=True, max_tokens=200, **sampling)
        tokens = await started_tokens(generation, 5)
        async with others_running(engine):
            tokens += (await all_of(generation))[0]
        assert tokens == wanted
        assert engine.load().pauses == 0


async def test_what_cannot_be_paused_does_not_take_all_places_and_begins_beside_nobody() -> None:
    async with started(**NEVER, max_running=4) as engine:
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


async def test_a_paused_generation_can_be_cancelled() -> None:
    async with started(**NEVER) as engine:
        (generation,) = await begun(engine)
        async with others_running(engine):
            await paused(engine)
            generation.cancel()
            assert [event async for event in generation] == []
            await eventually_async(lambda: engine.load().waiting == 0, what="it is forgotten")
            assert engine.load().paused == 0
        assert len(await answer(engine)) == 20


async def test_an_engine_that_is_closed_ends_what_is_paused() -> None:
    async with started(**NEVER) as engine:
        (generation,) = await begun(engine)
        async with others_running(engine):
            await paused(engine)
            await engine.close()
        with pytest.raises(Unavailable, match="closed"):
            await all_of(generation)


async def test_no_more_are_paused_than_ran_and_those_are_finished_first() -> None:
    async with started(**NEVER, max_running=4) as engine:
        most = 0
        ended: list[int] = []

        async def row(number: int) -> None:
            await all_of(submit(engine, (*PROMPT, number), yields=True, max_tokens=60))
            ended.append(number)

        rows = [asyncio.create_task(row(number)) for number in range(24)]
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
def online_stream(client: httpx.Client) -> Iterator[Iterator[str]]:
    with client.stream("POST", "/completions", json=body("Once", LONG, stream=True)) as answer:
        lines = answer.iter_lines()
        next(lines)
        yield lines


def test_a_stream_of_the_class_batch_stands_still_and_goes_on(server: LlmServer, client: httpx.Client) -> None:
    wanted = client.post("/completions", json=body("A long tale", 300)).json()["choices"][0]["text"]
    pauses = server.engine.load().pauses
    with client.stream("POST", "/completions", json=body("A long tale", 300, stream=True), headers=BATCH) as answer:
        lines = (line for line in answer.iter_lines() if line.startswith("data: {"))
        first = httpx.Response(200, text=next(lines).removeprefix("data: ")).json()["choices"][0]["text"]
        with online_stream(client):
            eventually(lambda: server.engine.load().paused == 1, timeout_s=20, what="it is paused")
        rest = [httpx.Response(200, text=line.removeprefix("data: ")).json()["choices"] for line in lines]
    assert first + "".join(choices[0]["text"] for choices in rest if choices) == wanted
    assert server.engine.load().pauses > pauses


def test_a_deadline_ends_what_is_paused(server: LlmServer, client: httpx.Client) -> None:
    with online_stream(client):
        began = time.monotonic()
        deadline = {**BATCH, "x-request-timeout": "0.2"}
        answer = client.post("/completions", json=body("Late", 50), headers=deadline)
        assert answer.status_code == 504
        assert time.monotonic() - began < 20
    eventually(lambda: server.engine.load().waiting == 0, timeout_s=20, what="it is forgotten")


def test_a_replica_that_drains_finishes_what_is_paused(server: LlmServer, client: httpx.Client) -> None:
    with client.stream("POST", "/completions", json=body("Mine", 300, stream=True), headers=BATCH) as answer:
        lines = answer.iter_lines()
        next(lines)
        try:
            with online_stream(client) as others:
                eventually(lambda: server.engine.load().paused == 1, timeout_s=20, what="it is paused")
                server.draining = True
                assert client.post("/completions", json=body("New", 5)).status_code == 503
                assert list(others)[-2:] == ["data: [DONE]", ""]
            assert list(lines)[-2:] == ["data: [DONE]", ""]
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
    eventually(lambda: called() == calls + 2, timeout_s=20, what="both are counted")
    text = client.get(f"{server.root}/metrics").text
    assert f"mesh_llm_pauses_total {float(server.engine.load().pauses)}" in text
    assert "mesh_llm_engine_paused 0.0" in text
