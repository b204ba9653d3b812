"""Direct ingress against the `tritonserver` binary: the same library, models, backends, load generator and pinning.

Both servers run during the whole benchmark and are measured in turn, so that a noisy machine disturbs both; the table
shows medians and the ratios of medians. `apart`: the server on one CPU, the load generator on another. `shared`: both
on both CPUs, as the scheduler likes. Requests per second are clients over mean latency: perf_analyzer rounds its own
figure to whole seconds.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from benchmarks.processes import cpu_s
from benchmarks.servers import ROOT, Server, pin, running
from benchmarks.tools import run_load
from serving.deployment import libraries
from serving.errors import DeadlineExceeded

NAMES: Final = ("mesh", "tritonserver")
PLACEMENTS: Final = {"apart": ("0", "1"), "shared": ("0,1", "0,1")}  # CPUs of the servers, of the load generator
SIZES: Final = {"64 B": (16, 20_000), "64 kB": (16_384, 6_000), "1 MB": (262_144, 1_000), "10 MB": (2_621_440, 150)}
CLIENTS: Final = (1, 8, 32, 128)
_TRIES: Final = 5
_MOST_ELEMENTS: Final = 32 * 2_621_440  # in flight at one time: perf_analyzer keeps several copies of each
RESULTS: Final = ROOT / "benchmarks" / "results" / "ingress.json"
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


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement of one server. CPU in microseconds of server time per request."""

    cpu_us: float
    requests_per_s: float
    p50_us: float
    p99_us: float


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
    """One measurement; again when the load generator did not end. Raises `FailedPrecondition`, `DeadlineExceeded`."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(DeadlineExceeded):
            return _measure(server, case)
    return _measure(server, case)


def _measure(server: Server, case: Case) -> Cell:
    servers, load_cpu = PLACEMENTS[case.placement]
    pin(server.pid, servers)
    warm = max(case.clients, case.requests // 20)
    run_load(server.address, case.model, clients=case.clients, requests=warm, shapes=case.shapes, cpu=load_cpu)
    cpu_before, count_before = cpu_s(server.pid), server.requests(case.model)
    load = run_load(
        server.address, case.model, clients=case.clients, requests=case.requests, shapes=case.shapes, cpu=load_cpu
    )
    count = server.requests(case.model) - count_before
    used = cpu_s(server.pid) - cpu_before
    return Cell(1e6 * used / count, 1e6 * case.clients / load.mean_us, load.p50_us, load.p99_us)


Rows = list[tuple[Case, dict[str, list[Cell]]]]


def run(quick: bool, say: Callable[[str], None]) -> str:
    """Measures everything; the table as Markdown. Raw results go to benchmarks/results/ingress.json."""
    repository, backends = prepare(ROOT / "build" / "bench-ingress")
    rounds = 1 if quick else 3
    rows: Rows = []
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(running(name, repository, backends)) for name in NAMES]
        wanted = cases(quick)
        for number, case in enumerate(wanted):
            cells: dict[str, list[Cell]] = {name: [] for name in NAMES}
            for _ in range(rounds):
                for server in servers:
                    cells[server.name].append(measure(server, case))
            rows.append((case, cells))
            say(f"{number + 1} of {len(wanted)}  {_row(case, cells)}")
    if not quick:
        _keep(rows)
    return table(rows)


def _keep(rows: Rows) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    found = [{**asdict(case), "cells": {n: [asdict(c) for c in cells[n]] for n in NAMES}} for case, cells in rows]
    text = json.dumps({"measured": time.strftime("%Y-%m-%d"), "machine": _machine(), "rows": found}, indent=1)
    RESULTS.write_text(text + "\n")


def _machine() -> dict[str, str]:
    info = Path("/proc/cpuinfo").read_text().splitlines()
    fields = {line.split(":")[0].strip(): line.split(":")[1].strip() for line in info if ":" in line}
    kernel = Path("/proc/version").read_text().split()[2]
    return {"cpu": fields.get("model name", "unknown"), "cpus": fields.get("siblings", "unknown"), "kernel": kernel}


def table(rows: Rows) -> str:
    lines = [
        "| model | CPUs | clients | CPU/request mesh | tritonserver | ratio | requests/s mesh | tritonserver | "
        "p50 mesh | tritonserver | ratio | p99 mesh | tritonserver | ratio |",
        "|" + " --- |" * 14,
    ]
    return "\n".join([*lines, *(_row(case, cells) for case, cells in rows)])


def _row(case: Case, cells: dict[str, list[Cell]]) -> str:
    ours, peer = (_median(cells[name]) for name in NAMES)
    return (
        f"| {case.label} | {case.placement} | {case.clients} | {ours.cpu_us:,.0f} µs | {peer.cpu_us:,.0f} µs | "
        f"**{ours.cpu_us / peer.cpu_us:.2f}** | {ours.requests_per_s:,.0f} | {peer.requests_per_s:,.0f} | "
        f"{ours.p50_us:,.0f} µs | {peer.p50_us:,.0f} µs | {ours.p50_us / peer.p50_us:.2f} | "
        f"{ours.p99_us:,.0f} µs | {peer.p99_us:,.0f} µs | {ours.p99_us / peer.p99_us:.2f} |"
    )


def _median(cells: list[Cell]) -> Cell:
    return Cell(*(statistics.median(getattr(cell, name) for cell in cells) for name in Cell.__slots__))
