"""What a replica has to do: its requests, and those of them that take what others leave."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Receive, Scope, Send

from serving.openai_http.counting import Counted


class Held:
    """An application that answers when it is let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def __call__(self, _scope: Scope, _receive: Receive, _send: Send) -> None:
        await self.go.wait()


def post(path: str, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http", "method": "POST", "path": path, "headers": list(headers)}


async def test_those_of_a_batch_are_counted_beside_all() -> None:
    held = Held()
    counted = Counted(held)
    scopes = [
        post("/v1/completions"),
        post("/v1/completions", (b"x-mesh-class", b"batch")),
        post("/v1/completions", (b"x-mesh-class", b"")),
        post("/metrics", (b"x-mesh-class", b"batch")),
    ]
    calls = [asyncio.ensure_future(counted(scope, None, None)) for scope in scopes]  # type: ignore[arg-type]
    await asyncio.sleep(0)
    assert (counted.in_flight, counted.batch) == (3, 1)
    idle = asyncio.ensure_future(counted.wait_idle())
    held.go.set()
    await asyncio.gather(*calls, idle)
    assert (counted.in_flight, counted.batch) == (0, 0)
