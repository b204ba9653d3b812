"""Equal offered rates for both servers: 30, 60 and 90 % of the most that `tritonserver` answers in a closed loop.

In a closed loop at many clients perf_analyzer's own CPU is the limit, so a cheaper server is not asked for more, and
latencies are of perf_analyzer's queues. At an equal rate that leaves it room, latency is the server's.
"""

from __future__ import annotations

import contextlib
import statistics
from dataclasses import asdict, dataclass
from typing import Final

from benchmarks.ingress import NAMES, PLACEMENTS, SIZES, Case, Say, measure, prepare
from benchmarks.processes import cpu_s
from benchmarks.results import keep_results
from benchmarks.servers import ROOT, Server, pin, running
from benchmarks.tools import run_load
from serving.errors import DeadlineExceeded

SHARES: Final = (0.3, 0.6, 0.9)
_PEAK_CLIENTS: Final = 32
_SECONDS: Final = 5.0
_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Cell:
    rate: float  # offered, requests a second
    cpu_us: float  # server time of a request
    p50_us: float
    p99_us: float
    load_cpu: float  # of one CPU, that the load generator used


def peak(server: Server, size: str) -> float:
    """The most that a closed loop gets from the server."""
    elements, count = SIZES[size]
    case = Case("identity", size, {"INPUT0": str(elements)}, _PEAK_CLIENTS, count, "apart")
    return measure(server, case).requests_per_s


def measure_rate(server: Server, size: str, rate: float) -> Cell:
    """Raises `DeadlineExceeded` when the load generator did not end, several times."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(DeadlineExceeded):
            return _measure_rate(server, size, rate)
    return _measure_rate(server, size, rate)


def _measure_rate(server: Server, size: str, rate: float) -> Cell:
    servers, load_cpu = PLACEMENTS["apart"]
    pin(server.pid, servers)
    before, count = cpu_s(server.pid), server.requests("identity")
    requests = max(round(rate * _SECONDS), 50)
    load = run_load(
        server.address,
        "identity",
        clients=1,
        requests=requests,
        shapes={"INPUT0": str(SIZES[size][0])},
        cpu=load_cpu,
        rate=rate,
    )
    answered = server.requests("identity") - count
    used = cpu_s(server.pid) - before
    return Cell(rate, 1e6 * used / answered, load.p50_us, load.p99_us, load.cpu_s * rate / requests)


def run(quick: bool, say: Say) -> str:
    """The table as Markdown; raw results go to benchmarks/results/ingress_rates.json."""
    repository, backends = prepare(ROOT / "build" / "bench-ingress")
    lines = [
        "| tensor | offered/s | of tritonserver's peak | CPU/request mesh | tritonserver | ratio | p50 mesh | "
        "tritonserver | ratio | p99 mesh | tritonserver | ratio | load generator's CPU, mesh | tritonserver |",
        "|" + " --- |" * 14,
    ]
    kept = []
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(running(name, repository, backends)) for name in NAMES]
        for size in ("64 B", "64 kB", "1 MB"):
            most = peak(servers[NAMES.index("tritonserver")], size)
            for share in SHARES:
                cells: dict[str, list[Cell]] = {name: [] for name in NAMES}
                for _ in range(1 if quick else 3):
                    for server in servers:
                        cells[server.name].append(measure_rate(server, size, share * most))
                lines.append(_row(size, share, *(_median(cells[name]) for name in NAMES)))
                say(lines[-1])
                kept.append({"size": size, "share": share, "cells": {n: [asdict(c) for c in cells[n]] for n in NAMES}})
                if not quick:
                    keep_results("ingress_rates", kept)
    return "\n".join(lines)


def _median(cells: list[Cell]) -> Cell:
    return Cell(*(statistics.median(getattr(cell, name) for cell in cells) for name in Cell.__slots__))


def _row(size: str, share: float, ours: Cell, peer: Cell) -> str:
    return (
        f"| {size} | {ours.rate:,.0f} | {share:.0%} | {ours.cpu_us:,.0f} µs | {peer.cpu_us:,.0f} µs | "
        f"**{ours.cpu_us / peer.cpu_us:.2f}** | {ours.p50_us:,.0f} µs | {peer.p50_us:,.0f} µs | "
        f"{ours.p50_us / peer.p50_us:.2f} | {ours.p99_us:,.0f} µs | {peer.p99_us:,.0f} µs | "
        f"{ours.p99_us / peer.p99_us:.2f} | {ours.load_cpu:.0%} | {peer.load_cpu:.0%} |"
    )
