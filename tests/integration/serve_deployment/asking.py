"""Clients of applications of Ray Serve that follow discovery."""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from ray.serve.generated.serve_pb2 import UserDefinedMessage
from ray.serve.generated.serve_pb2_grpc import UserDefinedServiceStub

from serving._proto import records_pb2 as pb
from serving.discovery import Resolver
from serving.errors import NotFound
from tests.integration.master.small_mesh import Keeper, SmallMesh, until


async def entry_point(
    keeper: Keeper, protocol: str, wanted: Callable[[pb.Endpoint], bool] = lambda _: True
) -> pb.Endpoint:
    """The first in discovery that is `wanted`; waits for it."""
    found: list[pb.Endpoint] = []

    async def look() -> bool:
        found[:] = [one for one, _ in (await keeper.endpoints()).values() if one.protocol == protocol and wanted(one)]
        return bool(found)

    await until(look)
    return found[0]


async def over_http(endpoint: pb.Endpoint, path: str) -> dict[str, Any]:
    return await get(f"http://{endpoint.address}{endpoint.labels['serve.route_prefix']}{path}")


async def get(url: str) -> dict[str, Any]:
    def ask() -> dict[str, Any]:
        with urllib.request.urlopen(url, timeout=60) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    return await asyncio.to_thread(ask)


async def over_grpc(endpoint: pb.Endpoint, number: int) -> tuple[str, int]:
    async with grpc.aio.insecure_channel(endpoint.address) as channel:
        metadata = (("application", endpoint.labels["serve.application"]),)
        answer = await UserDefinedServiceStub(channel).Method1(
            UserDefinedMessage(name="x", num=number), metadata=metadata, timeout=60
        )
        return answer.greeting, answer.num_x2


async def applications(endpoint: pb.Endpoint) -> set[str]:
    """Names of all that the Serve instance behind an HTTP entry point routes to."""
    return set((await get(f"http://{endpoint.address}/-/routes")).values())


def processes(mesh: SmallMesh, title: bytes) -> list[int]:
    """Ray's processes whose title begins so."""
    found = []
    for pid in mesh.ray.pids():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(title):
                found.append(pid)
    return found


class Asking:
    """While it is entered: one request after the other over each protocol, where discovery says at that moment."""

    def __init__(self, keeper: Keeper) -> None:
        self.words: dict[str, list[str]] = {"http": [], "serve-grpc": []}
        self.failed: list[str] = []
        self._resolver = Resolver(keeper.client, keeper.app)
        self._over = asyncio.Event()

    async def __aenter__(self) -> Asking:
        await self._resolver.start()
        self._tasks = [asyncio.create_task(self._run(protocol)) for protocol in self.words]
        await self.wait_for(5)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over.set()
        await asyncio.gather(*self._tasks)
        await self._resolver.close()

    async def wait_for(self, more: int, word: str = "") -> None:
        """Until so many more have been answered over each, with this word where it is given."""
        wanted = {protocol: self._count(protocol, word) + more for protocol in self.words}

        async def came() -> bool:
            return all(self._count(protocol, word) >= number for protocol, number in wanted.items())

        await until(came, told=lambda: f"{self.words}; {self.failed[-3:]}")

    def _count(self, protocol: str, word: str) -> int:
        return sum(1 for said in self.words[protocol] if not word or said == word)

    async def _run(self, protocol: str) -> None:
        while not self._over.is_set():
            try:
                self.words[protocol].append(await self._ask(protocol))
            except Exception as error:  # noqa: BLE001 - the tests say which there may be
                self.failed.append(f"{protocol}: {error!r}")

    async def _ask(self, protocol: str) -> str:
        endpoints = [one for one in self._resolver.view.ready if one.protocol == protocol]
        if not endpoints:
            raise NotFound("discovery has no entry point")
        newest = max(endpoints, key=lambda one: one.revision)
        if protocol == "serve-grpc":
            return (await over_grpc(newest, 1))[0]
        return str((await over_http(newest, "/scaled/1"))["word"])
