"""Real servers as processes, and a list of endpoints that a test changes by hand."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving._proto import records_pb2 as pb
from serving.discovery.client import InferenceClient
from serving.sdk.tensors import encode_request

SERVER = Path(__file__).with_name("kserve_server.py")
START_S = 60.0


class Replica:
    """One server process; it is killed at the end whatever state it is in."""

    def __init__(self, name: str, port: int = 0) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, str(SERVER), name, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.address = ""

    def wait_ready(self) -> None:
        self.address = self._line().removeprefix("address ").strip()
        assert self.address.startswith("127.0.0.1:"), f"the server {self.name} did not start"

    def behave(self, mode: str = "ok", **settings: Any) -> None:
        assert self._ask(json.dumps({"mode": mode, **settings})) == "done"

    def counts(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._ask("counts"))
        return found

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()

    def endpoint(self, **changes: Any) -> pb.Endpoint:
        """The record that such a replica would write."""
        known: dict[str, Any] = {
            "id": self.name,
            "address": self.address,
            "protocol": "kserve-grpc",
            "role": "direct",
            "namespace": "default",
            "application": "digits",
            "deployment": "digits",
            "models": [pb.ModelRecord(name="digits", versions=["1"])],
            "state": "ready",
            "revision": 1,
            "generation": 1,
        }
        return pb.Endpoint(**(known | changes))

    def _ask(self, line: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@dataclass(frozen=True)
class FixedView:
    endpoints: tuple[pb.Endpoint, ...]
    stale: bool = False
    stale_for_s: float = 0.0
    splits: tuple[pb.TrafficSplit, ...] = ()


class FixedSource:
    """A source of endpoints whose view is set by the test."""

    def __init__(self, *endpoints: pb.Endpoint) -> None:
        self.view = FixedView(endpoints)
        self.refusals: list[str] = []
        self._changed = asyncio.Event()

    def set(self, *endpoints: pb.Endpoint, stale: bool = False) -> None:
        self.view = FixedView(endpoints, stale, 7.0 if stale else 0.0, self.view.splits)
        self._changed.set()

    def split(self, *splits: pb.TrafficSplit) -> None:
        self.view = replace(self.view, splits=splits)
        self._changed.set()

    def refused(self, endpoint: pb.Endpoint) -> bool:
        self.refusals.append(endpoint.id)
        return False

    async def subscribe(self) -> AsyncIterator[FixedView]:
        while True:
            self._changed.clear()
            yield self.view
            await self._changed.wait()


async def ask(client: InferenceClient, *, timeout_s: float = 30.0, model: str = "digits", **options: Any) -> str:
    """One request; answers who answered it."""
    response = await ask_raw(client, timeout_s=timeout_s, model=model, **options)
    return str(response.parameters["replica"].string_param)


async def ask_raw(
    client: InferenceClient, *, timeout_s: float = 30.0, model: str = "digits", request_id: str = "", **options: Any
) -> Any:
    request = encode_request(model, {"x": np.ones((1, 4), dtype=np.float32)}, request_id=request_id)
    return await client.call("ModelInfer", request, timeout_s=timeout_s, model=model, **options)


class Traffic:
    """Callers that ask one request after the other; counts answers by replica and keeps every error."""

    def __init__(self, one: Callable[[], Any], callers: int) -> None:
        self.answers: dict[str, int] = {}
        self.errors: list[Exception] = []
        self._one = one
        self._callers = callers
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Traffic:
        self._tasks = [asyncio.create_task(self._call()) for _ in range(self._callers)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def more(self, count: int, *, of: str = "", timeout_s: float = 60.0) -> None:
        """Waits for so many further answers (of one replica)."""
        before = self._count(of)
        await until(
            lambda: self._count(of) >= before + count, timeout_s=timeout_s, what=f"{count} answers of {of or 'any'}"
        )

    def _count(self, of: str) -> int:
        return self.answers.get(of, 0) if of else sum(self.answers.values())

    async def _call(self) -> None:
        while not self._stopping:
            try:
                name = await self._one()
            except Exception as error:  # noqa: BLE001 - whatever it is, the test looks at it
                self.errors.append(error)
                await asyncio.sleep(0.01)
                continue
            self.answers[name] = self.answers.get(name, 0) + 1


async def until(look: Callable[[], Any], *, timeout_s: float = 60.0, what: str = "") -> None:
    """Waits for a fact."""
    deadline = time.monotonic() + timeout_s
    over = False
    while not look():
        if over:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        await asyncio.sleep(0.01)
        over = time.monotonic() > deadline  # before the look: who stood still since the last one looks once more


def start_all(names: Sequence[str]) -> list[Replica]:
    started = [Replica(name) for name in names]
    for replica in started:
        replica.wait_ready()
    return started


@pytest.fixture
def replicas() -> Iterator[Callable[..., list[Replica]]]:
    """Starts servers by name."""
    started: list[Replica] = []

    def start(*names: str) -> list[Replica]:
        made = start_all(names)
        started.extend(made)
        return made

    yield start
    for replica in started:
        replica.close()
