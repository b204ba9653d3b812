"""Short requests among long ones, as the simulator draws them, sent to real servers: open loop, and closed loop."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from benchmarks.broker_simulation import MEDIAN_S as SIMULATED_MEDIAN_S
from benchmarks.broker_simulation import REPLICAS, Outcome, Request, Times, Work, mean_s
from serving.timeouts import wait_for

MEDIAN_S: Final = 0.02  # of short requests: as short as two CPUs that all sides share allow
_SCALE: Final = MEDIAN_S / SIMULATED_MEDIAN_S
_LIMIT_S: Final = 300.0  # of one request
Send = Callable[[Request], Awaitable[None]]  # returns when it is answered


@dataclass(frozen=True, slots=True)
class Cell:
    """One run: `load` of what the replicas can do arrives, or so many `clients` ask again when they are answered."""

    times: Times
    requests: int
    seed: int
    load: float = 0.0
    clients: int = 0

    def simulated_rate(self) -> float:
        """Requests a second of the simulation that draws the same."""
        return self.load * REPLICAS / mean_s(self.times)


async def play(send: Send, cell: Cell) -> Outcome:
    """Raises what `send` raises, `TimeoutError` for a request without an answer. Seconds are real ones."""
    run = _Run(send, Work(cell.times, cell.seed))
    began = time.perf_counter()
    if cell.clients:
        await run.closed(cell.requests, cell.clients)
    else:
        await run.open(cell.requests, cell.simulated_rate() / _SCALE)
    took_s = time.perf_counter() - began
    # As in the simulation, in the order of their ends, without the first tenth.
    counted = run.answers[cell.requests // 10 :]
    return Outcome([s for long, s in counted if not long], [s for long, s in counted if long], took_s)


class _Run:
    def __init__(self, send: Send, work: Work) -> None:
        self.answers: list[tuple[bool, float]] = []  # whether it was long, and seconds
        self._send = send
        self._work = work

    async def open(self, requests: int, rate: float) -> None:
        """A request counts from when it should have been sent, so that a slow sender is not to its side's advantage."""
        loop = asyncio.get_running_loop()
        arrives = loop.time()
        sent = []
        for _ in range(requests):
            request = self._draw()
            arrives += self._work.gap() / rate
            await asyncio.sleep(max(0.0, arrives - loop.time()))
            sent.append(asyncio.create_task(self._one(request, arrives)))
        await asyncio.gather(*sent)

    async def closed(self, requests: int, clients: int) -> None:
        loop = asyncio.get_running_loop()
        left = itertools.repeat(None, requests)

        async def client() -> None:
            for _ in left:
                await self._one(self._draw(), loop.time())

        await asyncio.gather(*(client() for _ in range(clients)))

    def _draw(self) -> Request:
        request = self._work.draw()
        request.takes_s *= _SCALE
        return request

    async def _one(self, request: Request, arrives: float) -> None:
        await wait_for(self._send(request), _LIMIT_S)
        self.answers.append((request.long, asyncio.get_running_loop().time() - arrives))
