"""A sender to `row_server`s, and what tests read of its answers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from serving.batch.rows.request import COMPLETIONS, RowAnswer, RowRequest, openai_request
from serving.batch.sending.make import make_sender
from serving.batch.sending.places import Fixed
from serving.batch.sending.sender import Sender
from serving.batch.sending.settings import SenderConfig
from serving.batch.sending.window import WindowConfig
from tests.support.row_server import RowServer

QUICK = SenderConfig(window=WindowConfig(first=4), timeout_s=20, patience_s=30)


def row(prompt: str, tokens: int = 1, **more: Any) -> RowRequest:
    return openai_request(COMPLETIONS, {"prompt": prompt, "max_tokens": tokens, **more})


@contextlib.asynccontextmanager
async def sender_to(*servers: RowServer, config: SenderConfig = QUICK, key: str = "") -> AsyncIterator[Sender]:
    async with make_sender(Fixed(tuple(one.url for one in servers), api_key=key, model="m"), config) as sender:
        yield sender


async def all_of(sender: Sender, rows: list[RowRequest]) -> dict[int, RowAnswer]:
    found: dict[int, RowAnswer] = {}
    async for number, answer in sender.send_all(enumerate(rows)):
        assert number not in found
        found[number] = answer
    return found


def text(answer: RowAnswer) -> str:
    assert answer.fault is None, answer.fault
    return str(answer.value["choices"][0]["text"])
