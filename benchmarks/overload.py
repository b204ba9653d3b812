"""A server that is asked for up to four times what it can do: what it answers, how fast it refuses, when it recovers.

The model takes a fixed time on two instances, so its capacity is known and two CPUs are enough for server and load. The
load is open: requests come at their rate whatever becomes of earlier ones. Goodput is answers within the deadline.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tritonclient.grpc import service_pb2

from benchmarks.load import SLICE_S, Rates, Slice, link_identity, run_rates
from benchmarks.processes import cpu_s
from benchmarks.results import keep_results
from benchmarks.servers import ROOT, Server, running

Say = Callable[[str], None]
INSTANCES: Final = 2
EXECUTION_S: Final = 0.005
QUEUE: Final = 32  # requests that may wait
DEADLINE_S: Final = 0.25
LOADS: Final = (0.5, 1.0, 2.0, 4.0)  # of the capacity
_CALM: Final = 0.5
_CALM_S: Final = 2.0
_CONFIG: Final = """backend: "identity"
max_batch_size: 1
input [ {{ name: "INPUT0" data_type: TYPE_FP32 dims: [ 16 ] }} ]
output [ {{ name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 16 ] }} ]
instance_group [ {{ kind: KIND_CPU count: {instances} }} ]
parameters {{ key: "execute_delay_ms" value {{ string_value: "{delay_ms:.0f}" }} }}
{queue}
"""
_BOUNDED: Final = f"dynamic_batching {{ default_queue_policy {{ max_queue_size: {QUEUE} }} }}"


@dataclass(frozen=True, slots=True)
class Setting:
    title: str
    server: str
    model: str
    flags: tuple[str, ...] = ()


SETTINGS: Final = (
    Setting("mesh, max_requests", "mesh", "open", (f"--max-requests={QUEUE + INSTANCES}",)),
    Setting("mesh, max_queue_size", "mesh", "bounded"),
    Setting("mesh, no limit", "mesh", "open"),
    Setting("tritonserver, max_queue_size", "tritonserver", "bounded"),
    Setting("tritonserver, no limit", "tritonserver", "open"),
)


@dataclass(frozen=True, slots=True)
class Phase:
    """What became of the requests of one load. Rates a second; times in milliseconds, NaN where there is none."""

    offered: float
    goodput: float
    refused: float
    expired: float
    p50_ms: float
    p99_ms: float
    refusal_ms: float
    recovery_ms: float
    cpu: float  # of one CPU, over the load and the calm after it


def prepare(folder: Path) -> tuple[Path, Path]:
    """A model repository and a backend directory."""
    for name, queue in (("open", ""), ("bounded", _BOUNDED)):
        model = folder / "models" / name
        (model / "1").mkdir(parents=True, exist_ok=True)
        text = _CONFIG.format(instances=INSTANCES, delay_ms=EXECUTION_S * 1e3, queue=queue)
        (model / "config.pbtxt").write_text(text)
    return folder / "models", link_identity(folder)


def request_of(model: str) -> bytes:
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="INPUT0", datatype="FP32", shape=[1, 16])
    request.raw_input_contents.append(bytes(64))
    return bytes(request.SerializeToString())


def measure(server: Server, model: str, load: float, seconds: float) -> Phase:
    """So many seconds of a load, then calm ones, of which the first slices tell how long it takes to recover."""
    capacity = INSTANCES / EXECUTION_S
    started, before = time.monotonic(), cpu_s(server.pid)
    rates = run_rates(
        server.address,
        request_of(model),
        [(load * capacity, seconds), (_CALM * capacity, _CALM_S)],
        deadline_s=DEADLINE_S,
    )
    cpu = (cpu_s(server.pid) - before) / (time.monotonic() - started)
    return summarize(rates, round(seconds / SLICE_S), cpu)


def summarize(rates: Rates, loaded: int, cpu: float) -> Phase:
    """The first `loaded` slices are the load, without its first second, in which queues fill; the others are calm."""
    settled = rates.slices[min(round(1 / SLICE_S), loaded - 1) : loaded]
    seconds = len(settled) * SLICE_S
    codes = sum((s.codes for s in settled), Counter[str]())
    ok = [us / 1e3 for s in settled for us in s.ok_us]
    refusals = [us / 1e3 for s in settled for us in s.failed_us]
    return Phase(
        offered=sum(s.sent for s in settled) / seconds,
        goodput=codes["OK"] / seconds,
        refused=(codes["RESOURCE_EXHAUSTED"] + codes["UNAVAILABLE"]) / seconds,
        expired=(codes["DEADLINE_EXCEEDED"] + codes["CANCELLED"]) / seconds,
        p50_ms=_quantile(ok, 0.5),
        p99_ms=_quantile(ok, 0.99),
        refusal_ms=_quantile(refusals, 0.5),
        recovery_ms=_recovery(rates.slices[loaded:]) * 1e3,
        cpu=cpu,
    )


def _recovery(calm: Sequence[Slice]) -> float:
    """Seconds after the load until every request is answered."""
    bad = [number for number, one in enumerate(calm) if one.codes["OK"] != one.sent]
    return SLICE_S * (bad[-1] + 1) if bad else 0.0


def _quantile(values: list[float], share: float) -> float:
    if len(values) < 2:
        return values[0] if values else float("nan")
    return statistics.quantiles(values, n=1000, method="inclusive")[round(share * 1000) - 1]


def run(quick: bool, say: Say) -> str:
    repository, backends = prepare(ROOT / "build" / "bench-overload")
    lines = [
        "| limit | load | offered/s | goodput/s | of its peak | refused/s | too late/s | p50, p99 of answers | "
        "time to a refusal, p50 | recovered after | server CPU, calm seconds included |",
        "|" + " --- |" * 11,
    ]
    kept = []
    for setting in SETTINGS[:2] if quick else SETTINGS:
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(running(setting.server, repository, backends, *setting.flags))
            phases = {load: measure(server, setting.model, load, 3 if quick else 5) for load in LOADS}
        peak = max(phase.goodput for phase in phases.values())
        for load, phase in phases.items():
            kept.append({"setting": setting.title, "load": load, **asdict(phase)})
            lines.append(_row(setting.title, load, phase, peak))
            say(lines[-1])
    if not quick:
        keep_results("overload", kept)
    return "\n".join(lines)


def _row(title: str, load: float, phase: Phase, peak: float) -> str:
    refusal = "–" if phase.refusal_ms != phase.refusal_ms else f"{phase.refusal_ms:.1f} ms"
    answers = "–" if phase.p50_ms != phase.p50_ms else f"{phase.p50_ms:.0f} ms, {phase.p99_ms:.0f} ms"
    return (
        f"| {title} | {load:g} × | {phase.offered:.0f} | {phase.goodput:.0f} | **{phase.goodput / peak:.2f}** | "
        f"{phase.refused:.0f} | {phase.expired:.0f} | {answers} | {refusal} | {phase.recovery_ms:.0f} ms | "
        f"{phase.cpu:.0%} |"
    )
