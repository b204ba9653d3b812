"""What `broker_peers` measures with: the same requests as the simulation, and the highest load that holds."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.broker_peers import goodput
from benchmarks.broker_simulation import MEDIAN_S as SIMULATED_MEDIAN_S
from benchmarks.broker_simulation import Request, Work
from benchmarks.broker_simulator import OBJECTIVE
from benchmarks.queue_load import MEDIAN_S, Cell, play

STEPS = (0.2, 0.5, 0.6, 0.7, 0.8)


@pytest.mark.parametrize(("limit", "wanted"), [(0.1, 0.0), (0.2, 0.2), (0.65, 0.6), (0.75, 0.7), (1.0, 0.8)])
def test_the_highest_load_that_holds(limit: float, wanted: float) -> None:
    asked: list[float] = []

    def short_p99(load: float) -> float:
        asked.append(load)
        return OBJECTIVE if load <= limit else OBJECTIVE + 1

    assert goodput(short_p99, STEPS) == wanted
    assert asked == [load for load in STEPS if load <= wanted] + [load for load in STEPS if load > wanted][:1]


def test_a_load_that_holds_above_one_that_does_not_is_no_goodput() -> None:
    p99_at = {0.2: 1.0, 0.5: OBJECTIVE + 1, 0.6: 2.0, 0.7: 3.0, 0.8: OBJECTIVE + 9}
    assert goodput(p99_at.__getitem__, STEPS) == 0.2


@pytest.mark.parametrize("cell", [Cell("log-normal", 200, 3, load=0.9), Cell("log-normal", 200, 3, clients=7)])
async def test_requests_are_those_of_the_simulation(cell: Cell) -> None:
    sent: list[Request] = []
    running = most = 0

    async def send(request: Request) -> None:
        nonlocal running, most
        sent.append(request)
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    outcome = await play(send, cell)
    work = Work(cell.times, cell.seed)
    drawn = []
    for _ in range(cell.requests):
        drawn.append(work.draw())
        if cell.load:
            work.gap()
    assert [(one.number, one.long) for one in sent] == [(one.number, one.long) for one in drawn]
    scale = MEDIAN_S / SIMULATED_MEDIAN_S
    assert [one.takes_s for one in sent] == pytest.approx([one.takes_s * scale for one in drawn])
    assert len(outcome.short) + len(outcome.long) == cell.requests - cell.requests // 10
    assert most == (cell.clients or most)


async def test_a_request_that_fails_ends_the_run() -> None:
    async def send(request: Request) -> None:
        if request.number == 5:
            raise ValueError("not this one")

    with pytest.raises(ValueError, match="not this one"):
        await play(send, Cell("bounded Pareto", 50, 1, clients=2))
