"""Direct ingress against the `tritonserver` binary: the same library, models, backends, load generator and pinning.

Both servers run during the whole benchmark and are measured in turn, so that a noisy machine disturbs both; the table
shows medians and the ratios of medians. `apart`: the server on one CPU, the load generator on another. `shared`: both
on both CPUs, as the scheduler likes. Requests per second are clients over mean latency: perf_analyzer rounds its own
figure to whole seconds. The last two columns are how much of a CPU perf_analyzer itself used: where that is near 100 %,
it is what limits the row, and neither server. Its start is counted too, which tells where requests are few.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from benchmarks.processes import cpu_s
from benchmarks.results import keep_results, median_cell
from benchmarks.servers import ROOT, Server, pin, running
from benchmarks.tools import Load, patiently, run_load
from serving.deployment import libraries

NAMES: Final = ("mesh", "tritonserver")
PLACEMENTS: Final = {"apart": ("0", "1"), "shared": ("0,1", "0,1")}  # CPUs of the servers, of the load generator
SIZES: Final = {"64 B": (16, 20_000), "64 kB": (16_384, 6_000), "1 MB": (262_144, 1_000), "10 MB": (2_621_440, 150)}
CLIENTS: Final = (1, 8, 32, 128)
_MOST_ELEMENTS: Final = 32 * 2_621_440  # in flight at one time: perf_analyzer keeps several copies of each
Say = Callable[[str], None]
_IDENTITY_CONFIG: Final = """name: "identity"
backend: "identity"
max_batch_size: 0
input [ { name: "INPUT0" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ -1 ] } ]
"""


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table before it is measured."""

    model: str
    label: str
    shapes: dict[str, str]
    clients: int
    requests: int
    placement: str
    protocol: str = "grpc"
    shared_memory: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement of one server. CPU in microseconds of server time per request."""

    cpu_us: float
    requests_per_s: float
    p50_us: float
    p99_us: float
    load_cpu: float  # of one CPU, that the load generator used


def cases(quick: bool) -> list[Case]:
    share = 4 if quick else 1
    rows = [
        Case("identity", f"identity, {size}", {"INPUT0": str(elements)}, clients, max(count // share, clients), "apart")
        for size, (elements, count) in SIZES.items()
        for clients in CLIENTS
        if elements * clients <= _MOST_ELEMENTS
    ]
    rows += [Case("digits", "digits (ONNX)", {"image": "64"}, n, 10_000 // share, "apart") for n in CLIENTS]
    rows += [Case("identity", "identity, 64 B", {"INPUT0": "16"}, n, 20_000 // share, "shared") for n in CLIENTS]
    return rows


def http_cases(quick: bool) -> list[Case]:
    """Over HTTP/REST, with binary tensors."""
    share = 4 if quick else 1
    wanted = (("64 B", (1, 8, 32)), ("64 kB", (1, 8)), ("1 MB", (1, 8)), ("10 MB", (1,)))
    return [
        Case(
            "identity", f"identity, {size}, HTTP", {"INPUT0": str(elements)}, n, max(count // share, n), "apart", "http"
        )
        for size, clients in wanted
        for elements, count in [SIZES[size]]
        for n in clients
    ]


def shared_memory_cases(quick: bool) -> list[Case]:
    """10 MB tensors of a client on the same host: through a socket, and in system shared memory, both ways."""
    elements, count = SIZES["10 MB"]
    return [
        Case("identity", label, {"INPUT0": str(elements)}, n, count // (4 if quick else 1), "apart", "grpc", shared)
        for label, shared in (("identity, 10 MB, socket", False), ("identity, 10 MB, shared memory", True))
        for n in (1, 8)
    ]


def prepare(folder: Path) -> tuple[Path, Path]:
    """A model repository and a backend directory for both servers."""
    repository = folder / "models"
    (repository / "identity" / "1").mkdir(parents=True, exist_ok=True)
    (repository / "identity" / "config.pbtxt").write_text(_IDENTITY_CONFIG)
    digits = repository / "digits"
    if not digits.exists():
        digits.symlink_to(ROOT / "examples" / "digits" / "models" / "digits")
    backends = folder / "backends"
    backends.mkdir(exist_ok=True)
    found = {
        "identity": ROOT / "build" / "cmake" / "test_backends" / "identity",
        "openvino": libraries.find_openvino_backend().parent,
    }
    for name, source in found.items():
        link = backends / name
        link.unlink(missing_ok=True)
        link.symlink_to(source)
    return repository, backends


def measure(server: Server, case: Case) -> Cell:
    """One measurement. Raises `FailedPrecondition`, `DeadlineExceeded`."""
    return patiently(lambda: _measure(server, case))


def _measure(server: Server, case: Case) -> Cell:
    servers, load_cpu = PLACEMENTS[case.placement]
    pin(server.pid, servers)
    address = server.http if case.protocol == "http" else server.address
    output = 4 * int(case.shapes["INPUT0"]) if case.shared_memory else None

    def run_requests(requests: int) -> Load:
        return run_load(
            address,
            case.model,
            clients=case.clients,
            requests=requests,
            shapes=case.shapes,
            cpu=load_cpu,
            protocol=case.protocol,
            shared_output_bytes=output,
        )

    run_requests(max(case.clients, case.requests // 20))
    cpu_before, count_before = cpu_s(server.pid), server.requests(case.model)
    load = run_requests(case.requests)
    count = server.requests(case.model) - count_before
    used = cpu_s(server.pid) - cpu_before
    rate = 1e6 * case.clients / load.mean_us
    return Cell(1e6 * used / count, rate, load.p50_us, load.p99_us, load.cpu_s * rate / case.requests)


Rows = list[tuple[Case, dict[str, list[Cell]]]]


def run(quick: bool, say: Say) -> str:
    """gRPC: every size and number of clients; the table as Markdown."""
    return _run("ingress", cases(quick), quick, say)


def run_http(quick: bool, say: Say) -> str:
    return _run("ingress_http", http_cases(quick), quick, say)


def run_shared_memory(quick: bool, say: Say) -> str:
    return _run("ingress_shared_memory", shared_memory_cases(quick), quick, say)


def _run(name: str, wanted: list[Case], quick: bool, say: Say) -> str:
    """Raw results go to benchmarks/results/NAME.json after each row, so that a run that is ended leaves what it has."""
    repository, backends = prepare(ROOT / "build" / "bench-ingress")
    rounds = 1 if quick else 3
    rows: Rows = []
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(running(name, repository, backends)) for name in NAMES]
        for number, case in enumerate(wanted):
            cells: dict[str, list[Cell]] = {name: [] for name in NAMES}
            for _ in range(rounds):
                for server in servers:
                    cells[server.name].append(measure(server, case))
            rows.append((case, cells))
            say(f"{number + 1} of {len(wanted)}  {_row(case, cells)}")
            if not quick:
                _keep(name, rows)
    return table(rows)


def _keep(name: str, rows: Rows) -> None:
    found = [{**asdict(case), "cells": {n: [asdict(c) for c in cells[n]] for n in NAMES}} for case, cells in rows]
    keep_results(name, found)


def table(rows: Rows) -> str:
    lines = [
        "| model | CPUs | clients | CPU/request mesh | tritonserver | ratio | requests/s mesh | tritonserver | "
        "p50 mesh | tritonserver | ratio | p99 mesh | tritonserver | ratio | "
        "load generator's CPU, mesh | tritonserver |",
        "|" + " --- |" * 16,
    ]
    return "\n".join([*lines, *(_row(case, cells) for case, cells in rows)])


def _row(case: Case, cells: dict[str, list[Cell]]) -> str:
    ours, peer = (median_cell(cells[name]) for name in NAMES)
    return (
        f"| {case.label} | {case.placement} | {case.clients} | {ours.cpu_us:,.0f} µs | {peer.cpu_us:,.0f} µs | "
        f"**{ours.cpu_us / peer.cpu_us:.2f}** | {ours.requests_per_s:,.0f} | {peer.requests_per_s:,.0f} | "
        f"{ours.p50_us:,.0f} µs | {peer.p50_us:,.0f} µs | {ours.p50_us / peer.p50_us:.2f} | "
        f"{ours.p99_us:,.0f} µs | {peer.p99_us:,.0f} µs | {ours.p99_us / peer.p99_us:.2f} | "
        f"{ours.load_cpu:.0%} | {peer.load_cpu:.0%} |"
    )
