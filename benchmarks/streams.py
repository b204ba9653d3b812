"""32 streams of one decoupled model beside `tritonserver`: small responses a second, and the server's CPU time of each.

`at once`: a request's responses come without a pause, the most a server can be asked for. `paced`: each stream gets one
every millisecond, as tokens come. Both servers run during the whole benchmark and are measured in turn, on one CPU; the
load generator (`mesh_load`) has the other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tritonclient.grpc import service_pb2

from benchmarks.load import link_identity, run_streams
from benchmarks.processes import cpu_s
from benchmarks.results import keep_results, median_cell
from benchmarks.servers import ROOT, Server, pin, running

Say = Callable[[str], None]
STREAMS: Final = 32
RESPONSES: Final = 100  # to one request
NAMES: Final = ("mesh", "tritonserver")
MODELS: Final = {"at_once": 0, "paced": 1000}  # microseconds between two responses
_CONFIG: Final = """backend: "identity"
max_batch_size: 0
model_transaction_policy {{ decoupled: true }}
input [ {{ name: "INPUT0" data_type: TYPE_INT32 dims: [ 1 ] }} ]
output [ {{ name: "OUTPUT0" data_type: TYPE_INT32 dims: [ 1 ] }} ]
instance_group [ {{ kind: KIND_CPU count: {instances} }} ]
parameters {{ key: "responses" value {{ string_value: "{responses}" }} }}
parameters {{ key: "response_interval_us" value {{ string_value: "{interval_us}" }} }}
"""


@dataclass(frozen=True, slots=True)
class Cell:
    responses_per_s: float
    cpu_us: float  # server time of one response


def prepare(folder: Path) -> tuple[Path, Path]:
    """A model repository and a backend directory."""
    for name, interval in MODELS.items():
        model = folder / "models" / name
        (model / "1").mkdir(parents=True, exist_ok=True)
        # A paced model sleeps between its responses, so each stream has an instance.
        text = _CONFIG.format(instances=STREAMS if interval else 2, responses=RESPONSES, interval_us=interval)
        (model / "config.pbtxt").write_text(text)
    return folder / "models", link_identity(folder)


def request_of(model: str) -> bytes:
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="INPUT0", datatype="INT32", shape=[1])
    request.raw_input_contents.append(bytes(4))
    return bytes(request.SerializeToString())


def measure(server: Server, model: str, seconds: int) -> Cell:
    pin(server.pid, "0")
    run_streams(server.address, request_of(model), streams=STREAMS, responses=RESPONSES, seconds=1, cpu="1")
    before = cpu_s(server.pid)
    found = run_streams(
        server.address, request_of(model), streams=STREAMS, responses=RESPONSES, seconds=seconds, cpu="1"
    )
    return Cell(found.rate, 1e6 * (cpu_s(server.pid) - before) / found.total)


def run(quick: bool, say: Say) -> str:
    repository, backends = prepare(ROOT / "build" / "bench-streams")
    lines = [
        "| responses | responses/s mesh | tritonserver | CPU of one, mesh | tritonserver | a second and core, mesh | "
        "tritonserver | ratio |",
        "|" + " --- |" * 8,
    ]
    kept = []
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(running(name, repository, backends)) for name in NAMES]
        for model in MODELS:
            cells: dict[str, list[Cell]] = {name: [] for name in NAMES}
            for _ in range(1 if quick else 3):
                for server in servers:
                    cells[server.name].append(measure(server, model, 2 if quick else 5))
            kept.append({"model": model, "cells": {name: [asdict(cell) for cell in cells[name]] for name in NAMES}})
            lines.append(_row(model, *(median_cell(cells[name]) for name in NAMES)))
            say(lines[-1])
    if not quick:
        keep_results("streams", kept)
    return "\n".join(lines)


def _row(model: str, ours: Cell, peer: Cell) -> str:
    return (
        f"| {model.replace('_', ' ')} | {ours.responses_per_s:,.0f} | {peer.responses_per_s:,.0f} | "
        f"{ours.cpu_us:.1f} µs | {peer.cpu_us:.1f} µs | {1e6 / ours.cpu_us:,.0f} | {1e6 / peer.cpu_us:,.0f} | "
        f"**{peer.cpu_us / ours.cpu_us:.2f}** |"
    )
