"""A sender whose requests are taken and not answered: rows that are paused for others, and endpoints that hang."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from serving.batch.rows.request import COMPLETIONS, RowRequest, openai_request
from serving.batch.sending.make import make_sender
from serving.batch.sending.places import Fixed
from serving.batch.sending.sender import Sender
from serving.batch.sending.settings import SenderConfig
from serving.batch.sending.window import WindowConfig
from tests.support.row_server import RowServer, Said, completion, row_server


def row(prompt: str) -> RowRequest:
    return openai_request(COMPLETIONS, {"prompt": prompt, "max_tokens": 1})


@contextlib.asynccontextmanager
async def sender_to(*servers: RowServer, **more: Any) -> AsyncIterator[Sender]:
    config = SenderConfig(window=WindowConfig(first=4), **{"timeout_s": 0.5, "patience_s": 60, **more})
    async with make_sender(Fixed(tuple(one.url for one in servers), model="m"), config) as sender:
        yield sender


async def hang(_server: RowServer, _body: dict[str, Any]) -> Said | None:
    await asyncio.Event().wait()
    return None


async def test_a_row_that_is_paused_for_long_counts_no_attempt() -> None:
    async def paused(server: RowServer, body: dict[str, Any]) -> Said | None:
        return await hang(server, body) if len(server.bodies) <= 3 else completion(body)

    async with row_server(paused) as server, sender_to(server, max_attempts=1) as sender:
        found = await sender.send(row("p"))
        assert found.fault is None
        assert found.attempts == 1
        assert sender.stats.refusals >= 3
        assert sender.stats.retries == 0


@pytest.mark.parametrize("hanging", [1, 2])
async def test_endpoints_that_hang_are_given_up_with_patience(hanging: int) -> None:
    """Also with a single row, which is on its way at almost any time."""
    async with contextlib.AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(row_server(hang)) for _ in range(hanging)]
        sender = await stack.enter_async_context(sender_to(*servers, patience_s=1))
        fault = (await asyncio.wait_for(sender.send(row("p")), 60)).fault
        assert fault is not None
        assert (fault.code, "all of them refuse" in fault.message) == ("unavailable", True)


async def test_a_row_that_hangs_while_others_are_answered_is_given_up() -> None:
    async def poisoned(server: RowServer, body: dict[str, Any]) -> Said | None:
        return await hang(server, body) if body["prompt"] == "bad" else completion(body)

    async with row_server(poisoned) as server, sender_to(server, patience_s=3, max_attempts=2) as sender:
        bad = asyncio.create_task(sender.send(row("bad")))
        while not bad.done():
            assert (await sender.send(row("good"))).fault is None
        fault = (await bad).fault
        assert fault is not None
        assert (fault.code, fault.attempts) == ("unavailable", 2)
        assert "nothing came" in fault.message
