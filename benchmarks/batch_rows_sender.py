"""Sends rows without end, as a batch or as plain clients: a process that is told what to do line by line.

`batch`, `clients N`, `stop`, `count`; each is answered with a line of JSON that says how many rows were answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
from collections.abc import Iterator

import aiohttp

from benchmarks.batch_sharing import MODEL, PATH, body_of
from serving.batch.rows.request import RowRequest, openai_request
from serving.batch.sending.make import make_sender
from serving.batch.sending.places import Fixed
from serving.timeouts import cancel_and_wait


class Rows:
    """Never the same one twice. Belongs to one event loop."""

    def __init__(self, url: str) -> None:
        self.answered = 0
        self._url = url
        self._numbers = itertools.count()

    async def batch(self) -> None:
        async with (
            make_sender(Fixed((self._url,), model=MODEL)) as sender,
            contextlib.aclosing(sender.send_all(self._requests())) as answers,
        ):
            async for _, answer in answers:
                if answer.fault is not None:
                    raise RuntimeError(f"a row failed: {answer.fault.message}")
                self.answered += 1

    async def clients(self, count: int) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*(self._client(session) for _ in range(count)))

    async def _client(self, session: aiohttp.ClientSession) -> None:
        while True:
            async with session.post(f"{self._url}{PATH}", json=body_of(self._prompt())) as answer:
                answer.raise_for_status()
                await answer.read()
            self.answered += 1

    def _requests(self) -> Iterator[tuple[None, RowRequest]]:
        while True:
            yield None, openai_request(PATH, body_of(self._prompt()))

    def _prompt(self) -> str:
        return f"What is {next(self._numbers)} plus 7?"


async def _main(url: str) -> None:
    rows = Rows(url)
    running: asyncio.Task[None] | None = None
    while line := await asyncio.to_thread(sys.stdin.readline):
        if running is not None and running.done():
            running.result()  # raises what ended it
        command, *arguments = line.split()
        if command == "batch":
            running = asyncio.create_task(rows.batch())
        elif command == "clients":
            running = asyncio.create_task(rows.clients(int(arguments[0])))
        elif command == "stop" and running is not None:
            await cancel_and_wait(running)
            running = None
        print(json.dumps({"rows": rows.answered}), flush=True)
    if running is not None:
        await cancel_and_wait(running)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
