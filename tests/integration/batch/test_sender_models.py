"""A sender whose rows name several models: one that is away or full is its own rows' matter."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from serving.batch.rows.request import COMPLETIONS, RowAnswer, RowRequest, openai_request
from serving.batch.sending import places as places_module
from serving.batch.sending.make import make_sender
from serving.batch.sending.places import Fixed
from serving.batch.sending.sender import Sender
from serving.batch.sending.settings import SenderConfig
from serving.batch.sending.window import WindowConfig
from tests.support.row_server import RowServer, Said, completion, row_server


def row(prompt: str, model: str) -> RowRequest:
    return openai_request(COMPLETIONS, {"prompt": prompt, "max_tokens": 1, "model": model})


@contextlib.asynccontextmanager
async def sender_to(server: RowServer, **more: Any) -> AsyncIterator[Sender]:
    config = SenderConfig(window=WindowConfig(first=4), **{"timeout_s": 20, "patience_s": 60, **more})
    async with make_sender(Fixed((server.url,)), config) as sender:
        yield sender


async def all_of(sender: Sender, rows: list[RowRequest]) -> list[RowAnswer]:
    found = {number: answer async for number, answer in sender.send_all(enumerate(rows))}
    return [found[number] for number in range(len(rows))]


async def full_model(_server: RowServer, body: dict[str, Any]) -> Said:
    """Of the model `full`, as a gateway says it; others answer."""
    if body["model"].startswith("full"):
        return Said(429, {"error": {"message": "full", "code": "rate_limit_exceeded"}}, {"retry-after": "30"})
    return completion(body)


async def test_a_model_that_refuses_holds_up_no_other_one() -> None:
    rows = [row(f"p{number}", model) for number in range(100) for model in ("full", "free")]
    async with row_server(full_model) as server, sender_to(server, patience_s=2.0) as sender:
        found = await all_of(sender, rows)
        assert [one.fault for one in found[1::2]] == [None] * 100
        assert {one.fault.code for one in found[::2] if one.fault} == {"unavailable"}
        assert max(sender.limits.values()) >= 4 > min(sender.limits.values()), "each has its own window"


async def test_more_models_than_are_kept_apart_are_answered_too(monkeypatch: Any) -> None:
    monkeypatch.setattr(places_module, "_MOST_LANES", 3)
    async with row_server(full_model) as server, sender_to(server) as sender:
        found = await all_of(sender, [row(f"p{number}", f"m{number % 7}") for number in range(70)])
        assert [one.fault for one in found] == [None] * 70
        assert {body["model"] for body in server.bodies} == {f"m{number}" for number in range(7)}
        assert len(sender.limits) == 4
