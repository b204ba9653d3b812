"""Classes that the tests deploy."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from serving.errors import FailedPrecondition, InvalidArgument
from serving.python_deployment import Handle, Request, Response, Tensor, batch


class Scale:
    """Multiplies, on the event loop."""

    inputs = (Tensor("x", "FP32", (-1,)), Tensor("y", "FP32", (2, -1), optional=True))
    outputs = (Tensor("scaled", "FP32", (-1,)),)

    def __init__(self, factor: float = 2.0) -> None:
        self.factor = factor
        self.offset = 0.0
        self.sick = ""

    async def infer(self, request: Request) -> dict[str, Any]:
        if self.sick == "after" and request["x"].size == 3:
            self.sick = "now"
        return {"scaled": request["x"] * np.float32(self.factor) + np.float32(self.offset)}

    async def reconfigure(self, config: dict[str, Any]) -> None:
        if config.get("offset", 0) < 0:
            raise ValueError("a negative offset")
        self.offset = config.get("offset", 0.0)
        self.sick = config.get("sick", "")

    def health(self) -> bool:
        return self.sick != "now"


class StartsLater(Scale):
    """Its constructor waits for a file."""

    def __init__(self, gate: str) -> None:
        super().__init__()
        while not Path(gate).exists():
            time.sleep(0.01)


class Anything:
    """Declares nothing; does what the request's parameters say, on threads."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.running = 0
        self._lock = threading.Lock()

    def infer(self, request: Request) -> object:
        do = request.parameters.get("do")
        if do == "raise":
            raise ValueError("a bad day")
        if do == "exit":
            raise SystemExit(3)
        if do == "stop":
            next(iter(()))
        if do == "refuse":
            raise InvalidArgument("not this one")
        if do == "long":
            raise InvalidArgument("bad: " + "\N{SNOWMAN}" * 4000)
        if do == "surrogate":
            raise InvalidArgument("bad: \ud800")
        if do == "state":
            raise FailedPrecondition("not now")
        if do == "nothing":
            return None
        if do == "objects":
            return {"x": np.array([object()])}
        if do == "wait":
            while not request.cancelled:
                time.sleep(0.01)
            self.seen.append("cancelled")
        if do == "seen":
            return {"seen": np.array(self.seen, dtype=object)}
        if do == "about":
            left = -1.0 if request.left_s is None else request.left_s
            return Response({"left": np.array([left])}, {"trace": request.traceparent, "id": request.id})
        return dict(request.inputs)


class Waits:
    """Waits on the event loop until it is let go, and notes what is cancelled."""

    stands = threading.Event()  # the tests run in the same process
    goes_on = threading.Event()

    def __init__(self) -> None:
        self.cancelled = 0
        self.waiting = 0
        self.gate = asyncio.Event()

    async def infer(self, request: Request) -> dict[str, Any]:
        do = request.parameters.get("do")
        if do == "open":
            self.gate.set()
        elif do == "block":
            time.sleep(float(request.parameters["s"]))  # noqa: ASYNC251 - the mistake that is tested
        elif do == "stand still":
            Waits.stands.set()
            Waits.goes_on.wait(60)
        elif do != "count":
            self.waiting += 1
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            finally:
                self.waiting -= 1
        return {"counts": np.array([self.waiting, self.cancelled])}


class Large:
    """Answers as many MiB as it is asked for."""

    async def infer(self, request: Request) -> dict[str, Any]:
        return {"zeros": np.zeros(int(request.parameters["mib"]) << 20, np.uint8)}


class Counts:
    """Yields as many answers as it is asked for."""

    closed = 0
    yielded = 0

    async def infer(self, request: Request) -> AsyncIterator[dict[str, Any]]:
        try:
            for index in range(int(request["n"][0])):
                if index == request.parameters.get("fail_at"):
                    raise ValueError("enough")
                yield {"i": np.array([index])}
                Counts.yielded += 1
                await asyncio.sleep(0)
        finally:
            Counts.closed += 1


class CountsOnThreads:
    """The same, blocking."""

    def infer(self, request: Request) -> Iterator[dict[str, Any]]:
        for index in range(int(request["n"][0])):
            yield {"i": np.array([index])}


class Batched:
    """Adds one to all of a batch at once and says how many there were."""

    @batch(max_size=4, wait_s=0.05)
    async def infer(self, requests: list[Request]) -> list[Any]:
        await asyncio.sleep(0.02)
        size = np.array([len(requests)])
        return [
            ValueError("odd one") if request.parameters.get("bad") else {"y": request["x"] + 1, "size": size}
            for request in requests
        ]


class BlocksByHandle:
    """Makes the mistake to block the event loop."""

    def __init__(self) -> None:
        self.other = Handle("other")

    async def infer(self, request: Request) -> dict[str, Any]:
        return dict(self.other.infer_blocking({}) if not request.inputs else request.inputs)


class Broken:
    def __init__(self) -> None:
        raise RuntimeError("no weights here")

    def infer(self, request: Request) -> object:
        return request


class NoInfer:
    pass
