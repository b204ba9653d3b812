"""How far a broker's queue gets, simulated: the load up to which short requests do not suffer from long ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Final

from benchmarks.broker_simulation import (
    MEDIAN_S,
    REPLICAS,
    Bounded,
    Dispatch,
    Outcome,
    Pulled,
    PulledAhead,
    Pushed,
    SingleQueue,
    Times,
    Work,
    at_random,
    closed_loop,
    mean_s,
    open_loop,
    round_robin,
    two_choices,
)
from benchmarks.results import keep_results
from serving.broker.queue import QueueSettings

Tell = Callable[[str], None]
OBJECTIVE: Final = 5.0  # medians of short requests, within which 99 % of them are answered
_REQUESTS: Final = 100_000
_QUICK_REQUESTS: Final = 10_000
_LOADS: Final = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_QUICK_LOADS: Final = (0.5, 0.9)
_CLIENTS: Final = (16, 64)
_SEED: Final = 7
_TIMES: Final[tuple[Times, ...]] = ("log-normal", "bounded Pareto")
_WAY_S: Final = MEDIAN_S / 25
_FAR_S: Final = MEDIAN_S / 4


@dataclass(frozen=True, slots=True)
class Side:
    make: Callable[[], Dispatch]
    way_s: float = 0.0


SIDES: Final = {
    "round robin": Side(lambda: Pushed(round_robin())),
    "random": Side(lambda: Pushed(at_random())),
    "power of two choices": Side(lambda: Pushed(two_choices())),
    "JBSQ(2)": Side(lambda: Bounded(2)),
    "ideal single queue, FIFO": Side(lambda: SingleQueue(False)),
    "ideal single queue, shortest first": Side(lambda: SingleQueue(True)),
    "broker": Side(lambda: Pulled()),
    "broker, 2 ms to a replica": Side(lambda: Pulled(), _WAY_S),
    "broker, a quarter of a median to a replica": Side(lambda: Pulled(), _FAR_S),
    "broker, the same, one ahead": Side(lambda: PulledAhead(_FAR_S)),
    "broker, kept_share 0.375": Side(lambda: Pulled(QueueSettings(kept_share=0.375))),
}


@dataclass(frozen=True, slots=True)
class Row:
    """Times in medians of short requests. The highest load at which the objective is held, of what replicas can do."""

    times: str
    side: str
    goodput: float
    open: dict[str, tuple[float, float, float, float]]  # by load: mean and p99 of short ones, then of long ones
    closed: dict[str, tuple[float, float, float, float, float]]  # by clients: also requests a second


def run(quick: bool, tell: Tell) -> str:
    rows = []
    for times in _TIMES:
        for name in SIDES:
            tell(f"{times}: {name}")
            rows.append(measured(times, name, quick))
    if not quick:
        keep_results("broker_simulator", [asdict(row) for row in rows])
    return "\n\n".join(f"{_heading(times)}\n\n{table([row for row in rows if row.times == times])}" for times in _TIMES)


def measured(times: Times, name: str, quick: bool) -> Row:
    requests = _QUICK_REQUESTS if quick else _REQUESTS
    side = SIDES[name]
    most = REPLICAS / mean_s(times)

    def at(load: float) -> Outcome:
        return open_loop(side.make(), Work(times, _SEED), requests, load * most, side.way_s)

    goodput = highest(lambda load: p99(at(load).short) <= OBJECTIVE * MEDIAN_S, 0.05 if quick else 0.01)
    loads = {f"{load:.2f}": _by_class(at(load)) for load in (_QUICK_LOADS if quick else _LOADS)}
    closed = {}
    for clients in _CLIENTS:
        outcome = closed_loop(side.make(), Work(times, _SEED), requests, clients, side.way_s)
        closed[str(clients)] = (*_by_class(outcome), requests / outcome.took_s)
    return Row(times, name, goodput, loads, closed)


def highest(holds: Callable[[float], bool], step: float) -> float:
    """The highest load up to 0.99 that holds, where each lower one does; 0: none."""
    low, high = 0.0, 1.0
    while high - low > step:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def p99(values: list[float]) -> float:
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]


def _by_class(outcome: Outcome) -> tuple[float, float, float, float]:
    short, long = outcome.short, outcome.long
    return fmean(short) / MEDIAN_S, p99(short) / MEDIAN_S, fmean(long) / MEDIAN_S, p99(long) / MEDIAN_S


def _heading(times: str) -> str:
    what = f"Short requests {times}, 1 % of all 100 times as long, {REPLICAS} replicas"
    return f"{what}; times in medians of short requests"


def table(rows: list[Row]) -> str:
    shown = list(rows[0].open)
    head = ["side", "goodput", "of round robin"]
    head += [f"short p99 at {float(load):.0%}" for load in shown] + [
        f"short mean, long mean, long p99 at {float(shown[-1]):.0%}"
    ]
    head += [f"{clients} clients: requests/s, short p99" for clients in rows[0].closed]
    least = next(row.goodput for row in rows if row.side == "round robin")
    lines = [head, ["---"] * len(head)]
    for row in rows:
        ratio = f"{row.goodput / least:.1f}" if least else "–"
        last = row.open[shown[-1]]
        cells = [row.side, f"{row.goodput:.0%}", ratio, *(f"{row.open[load][1]:.1f}" for load in shown)]
        cells.append(f"{last[0]:.1f}, {last[2]:.0f}, {last[3]:.0f}")
        cells += [f"{found[4]:.0f}, {found[1]:.1f}" for found in row.closed.values()]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
