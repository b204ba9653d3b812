"""A worker of a processor without Ray, against endpoints that are scripted."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from typing import Any

import pyarrow as pa
import pytest

from serving.batch.sending.places import Fixed
from serving.batch.sending.settings import SenderConfig
from serving.batch.stages.settings import ProcessorConfig
from serving.batch.stages.worker import RowWorker, UserStep
from serving.errors import Internal
from tests.support.row_server import RowServer, Said, completion, row_server
from tests.support.waiting import eventually_async

SAMPLING = {"max_tokens": 1}


async def answers(_server: RowServer, body: dict[str, Any]) -> Said:
    return Said(body=[1]) if body["prompt"] == "rubbish" else Said(body=completion(body).body | said(body["prompt"]))


def said(prompt: str) -> dict[str, Any]:
    return {"choices": "none"} if prompt == "odd" else {}


@contextlib.asynccontextmanager
async def worker_to(server: RowServer, *, preprocess: UserStep | None = None, **more: Any) -> AsyncIterator[RowWorker]:
    target = Fixed((server.url,), model="m")
    config = ProcessorConfig(target, task="completion", sampling=SAMPLING, sender=SenderConfig(max_attempts=2), **more)
    worker = await asyncio.to_thread(RowWorker, config, preprocess)
    try:
        yield worker
    finally:
        await asyncio.to_thread(worker.close)


def prompts(*texts: str | None) -> pa.Table:
    return pa.table({"prompt": pa.array(texts, pa.string())})


async def test_a_slow_step_of_the_user_holds_up_no_row_on_its_way() -> None:
    reached, goes_on, sent = threading.Event(), threading.Event(), asyncio.Event()

    def preprocess(row: dict[str, Any]) -> dict[str, Any]:
        if row["prompt"] == "slow":
            reached.set()
            assert goes_on.wait(60)
        return {}

    async def held(_server: RowServer, body: dict[str, Any]) -> Said:
        sent.set()
        await asyncio.to_thread(reached.wait, 60)  # until the other call's step is under way
        return completion(body)

    async with row_server(held) as server, worker_to(server, preprocess=preprocess) as worker:
        quick = asyncio.create_task(worker(prompts("quick")))
        await asyncio.wait_for(sent.wait(), 60)
        slow = asyncio.create_task(worker(prompts("slow")))
        try:
            await eventually_async(lambda: worker._sender.stats.answers == 1, what="the quick row is answered")
            assert reached.is_set()
        finally:
            goes_on.set()
        assert (await quick).column("generated_text").to_pylist() == ["quick"]
        assert (await slow).column("generated_text").to_pylist() == ["slow"]


async def test_odd_rows_and_odd_answers_are_errors_of_their_rows() -> None:
    async with row_server(answers) as server, worker_to(server) as worker:
        found = await worker(prompts("a", None, "odd", "rubbish", "b"))
        faults = found.column("__error__").to_pylist()
        assert [one and one["code"] for one in faults] == [
            None,
            "invalid_argument",
            "invalid_answer",
            "invalid_answer",
            None,
        ]
        assert [one["attempts"] for one in faults if one] == [0, 1, 2]
        assert found.column("generated_text").to_pylist() == ["a", None, None, None, "b"]


async def test_an_odd_answer_ends_a_job_that_wants_that() -> None:
    async with row_server(answers) as server, worker_to(server, on_error="raise") as worker:
        with pytest.raises(Internal, match="invalid_answer"):
            await worker(prompts("rubbish"))
