"""Classes that tests of brokers deploy. They note what they run in a file, so that it outlives their processes."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np

from serving.errors import InvalidArgument
from serving.python_deployment import Request

_LOOK_S = 0.01


class Worker:
    """Answers `n` doubled. The parameter `do`: `wait` until the file `go` is there, `refuse`, `fail`."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def note(self, what: str, request: Request) -> None:
        line = f"{what} {int(request['n'][0])}\n".encode()
        file = os.open(self.folder / "runs", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, line)
        finally:
            os.close(file)

    async def may_end(self) -> None:
        while not (self.folder / "go").exists():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(_LOOK_S)

    async def infer(self, request: Request) -> dict[str, Any]:
        do = request.parameters.get("do")
        self.note("began", request)
        if do == "refuse":
            raise InvalidArgument("not this one")
        if do == "fail":
            raise ValueError("a bad day")
        try:
            if do == "wait":
                await self.may_end()
        except asyncio.CancelledError:
            self.note("stopped", request)
            raise
        self.note("ended", request)
        return {"doubled": request["n"] * 2, "replica": np.array([os.getpid()])}


class Counts(Worker):
    """Yields 0 to `n`; waits before the last one as `Worker` does."""

    async def infer(self, request: Request) -> AsyncIterator[dict[str, Any]]:  # type: ignore[override]
        count = int(request["n"][0])
        for index in range(count):
            if index == count - 1 and request.parameters.get("do") == "wait":
                await self.may_end()
            yield {"i": np.array([index])}


class Stamps(Worker):
    """Answers `n` doubled, and a number of this run that no other run has; notes both when it ends."""

    async def infer(self, request: Request) -> dict[str, Any]:
        await asyncio.sleep(float(request.parameters.get("seconds", 0.0)))
        run = secrets.randbits(62)
        self.note(f"ran {run}", request)
        return {"doubled": request["n"] * 2, "run": np.array([run])}
