"""Direct ingress against the `tritonserver` binary: the same library, models, backends, load generator and pinning.

Servers run one at a time on one CPU, the load generator on another. Rounds alternate between the servers, so that a
noisy machine disturbs both; the table shows medians and the ratios of medians.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from benchmarks.processes import cpu_s
from benchmarks.servers import ROOT, running
from benchmarks.tools import run_load
from serving.deployment import libraries

NAMES: Final = ("mesh", "tritonserver")
SERVER_CPU: Final = 0
LOAD_CPU: Final = 1
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


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement of one server. CPU in microseconds of server time per request."""

    cpu_us: float
    requests_per_s: float
    p50_us: float
    p99_us: float


def cases(quick: bool) -> list[Case]:
    requests = 3000 if quick else 10000
    rows = [
        Case("identity", "identity, 64 B", {"INPUT0": "16"}, clients, requests if clients > 1 else requests // 2)
        for clients in (1, 8, 32)
    ]
    rows += [Case("digits", "digits (ONNX)", {"image": "64"}, clients, requests // 2) for clients in (1, 8, 32)]
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


def measure(name: str, case: Case, repository: Path, backends: Path) -> Cell:
    with running(name, repository, backends, SERVER_CPU) as server:
        run_load(server.address, case.model, clients=case.clients, requests=500, shapes=case.shapes, cpu=LOAD_CPU)
        cpu_before, count_before = cpu_s(server.pid), server.requests(case.model)
        load = run_load(
            server.address, case.model, clients=case.clients, requests=case.requests, shapes=case.shapes, cpu=LOAD_CPU
        )
        count = server.requests(case.model) - count_before
        used = cpu_s(server.pid) - cpu_before
    return Cell(1e6 * used / count, load.requests_per_s, load.p50_us, load.p99_us)


def run(quick: bool, say: Callable[[str], None]) -> str:
    """Measures everything; the table as Markdown. Raw results go to benchmarks/results/ingress.json."""
    repository, backends = prepare(ROOT / "build" / "bench-ingress")
    rounds = 1 if quick else 3
    rows = []
    for case in cases(quick):
        cells: dict[str, list[Cell]] = {name: [] for name in NAMES}
        for number in range(rounds):
            for name in NAMES:
                say(f"{case.label}, {case.clients} clients, round {number + 1} of {rounds}: {name}")
                cells[name].append(measure(name, case, repository, backends))
        rows.append((case, cells))
    results = ROOT / "benchmarks" / "results" / "ingress.json"
    results.parent.mkdir(exist_ok=True)
    results.write_text(
        json.dumps(
            [
                {**asdict(case), "cells": {n: [asdict(c) for c in found] for n, found in cells.items()}}
                for case, cells in rows
            ],
            indent=1,
        )
        + "\n"
    )
    return table(rows)


def table(rows: list[tuple[Case, dict[str, list[Cell]]]]) -> str:
    lines = [
        "| model | clients | CPU/request mesh | tritonserver | ratio | requests/s mesh | tritonserver | p50 mesh | "
        "tritonserver | p99 mesh | tritonserver |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case, cells in rows:
        ours, peer = (_median(cells[name]) for name in NAMES)
        lines.append(
            f"| {case.label} | {case.clients} | {ours.cpu_us:.0f} µs | {peer.cpu_us:.0f} µs | "
            f"**{ours.cpu_us / peer.cpu_us:.2f}** | {ours.requests_per_s:,.0f} | {peer.requests_per_s:,.0f} | "
            f"{ours.p50_us:.0f} µs | {peer.p50_us:.0f} µs | {ours.p99_us:.0f} µs | {peer.p99_us:.0f} µs |"
        )
    return "\n".join(lines)


def _median(cells: list[Cell]) -> Cell:
    return Cell(*(statistics.median(getattr(cell, name) for cell in cells) for name in Cell.__slots__))
