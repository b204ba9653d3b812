"""Equal offered rates for both servers: 30, 60 and 90 % of the most that `tritonserver` answers in a closed loop.

In a closed loop at many clients perf_analyzer's own CPU is the limit, so a cheaper server is not asked for more, and
latencies are of perf_analyzer's queues. At an equal rate latency is the server's. The load is `mesh_load`'s:
perf_analyzer has a rate mode, but needs a CPU for some 16,000 requests a second, falls behind, and measures itself.
"""

from __future__ import annotations

import contextlib
import statistics
from dataclasses import asdict, dataclass
from typing import Final

from tritonclient.grpc import service_pb2

from benchmarks.ingress import NAMES, PLACEMENTS, SIZES, Case, Say, measure, prepare
from benchmarks.load import run_rates
from benchmarks.processes import cpu_s
from benchmarks.results import keep_results, median_cell
from benchmarks.servers import ROOT, Server, pin, running
from benchmarks.tools import children_cpu_s
from serving.errors import FailedPrecondition

SHARES: Final = (0.3, 0.6, 0.9)
_PEAK_CLIENTS: Final = 32
_SECONDS: Final = 5.0


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
    """Raises `FailedPrecondition` when a request was not answered."""
    servers, load_cpu = PLACEMENTS["apart"]
    pin(server.pid, servers)
    before, own = cpu_s(server.pid), children_cpu_s()
    found = run_rates(server.address, request_of(SIZES[size][0]), [(rate, _SECONDS)], deadline_s=10, cpu=load_cpu)
    used, own = cpu_s(server.pid) - before, children_cpu_s() - own
    if found.messages:
        raise FailedPrecondition(f"{server.name} failed at {rate:.0f} requests a second: {found.messages}")
    latencies = statistics.quantiles([us for one in found.slices for us in one.ok_us], n=100)
    answered = sum(len(one.ok_us) for one in found.slices)
    return Cell(rate, 1e6 * used / answered, latencies[49], latencies[98], own / _SECONDS)


def request_of(elements: int) -> bytes:
    request = service_pb2.ModelInferRequest(model_name="identity")
    request.inputs.add(name="INPUT0", datatype="FP32", shape=[elements])
    request.raw_input_contents.append(bytes(4 * elements))
    return bytes(request.SerializeToString())


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
                lines.append(_row(size, share, *(median_cell(cells[name]) for name in NAMES)))
                say(lines[-1])
                kept.append({"size": size, "share": share, "cells": {n: [asdict(c) for c in cells[n]] for n in NAMES}})
                if not quick:
                    keep_results("ingress_rates", kept)
    return "\n".join(lines)


def _row(size: str, share: float, ours: Cell, peer: Cell) -> str:
    return (
        f"| {size} | {ours.rate:,.0f} | {share:.0%} | {ours.cpu_us:,.0f} µs | {peer.cpu_us:,.0f} µs | "
        f"**{ours.cpu_us / peer.cpu_us:.2f}** | {ours.p50_us:,.0f} µs | {peer.p50_us:,.0f} µs | "
        f"{ours.p50_us / peer.p50_us:.2f} | {ours.p99_us:,.0f} µs | {peer.p99_us:,.0f} µs | "
        f"{ours.p99_us / peer.p99_us:.2f} | {ours.load_cpu:.0%} | {peer.load_cpu:.0%} |"
    )
