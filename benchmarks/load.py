"""`mesh_load`, our own load generator (cpp_ext/benchmarks): fixed rates whether or not answers come, closed loops, and
streams.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.servers import ROOT, built
from benchmarks.tools import children_cpu_s
from serving.errors import FailedPrecondition

SLICE_S: Final = 0.1
_SPARE_S: Final = 60.0
_CLOSED_S: Final = 60.0  # far more than a loop of some thousand requests takes


@dataclass(frozen=True, slots=True)
class Slice:
    """The requests that were sent in one tenth of a second. Latencies in microseconds, of answers and of refusals."""

    sent: int
    codes: Counter[str]
    ok_us: list[int]
    failed_us: list[int]


@dataclass(frozen=True, slots=True)
class Rates:
    slices: list[Slice]
    messages: dict[str, str]  # the first of each code that is not OK


@dataclass(frozen=True, slots=True)
class Streamed:
    """Responses a second, and all, with those after the measured seconds, until the streams had ended."""

    rate: float
    total: int


@dataclass(frozen=True, slots=True)
class Closed:
    """What a closed loop saw. Latencies in microseconds; `cpu_s` is what the load generator itself used."""

    rate: float
    p50_us: float
    p99_us: float
    cpu_s: float


def run_rates(
    address: str, request: bytes, plan: Sequence[tuple[float, float]], *, deadline_s: float, cpu: str | None = None
) -> Rates:
    """Sends the encoded ModelInferRequest at each rate (a second) for so many seconds, one after the other."""
    flags = [f"--deadline-ms={deadline_s * 1e3:.0f}", "--connections=4"]
    flags.append("--plan=" + ",".join(f"{rate}:{seconds}" for rate, seconds in plan))
    found = _run("rate", address, request, flags, sum(seconds for _, seconds in plan), cpu)
    slices = [Slice(s["sent"], Counter(s["codes"]), s["ok_us"], s["failed_us"]) for s in found["slices"]]
    return Rates(slices, found["messages"])


def run_closed(
    address: str, request: bytes, *, clients: int, requests: int, connections: int, cpu: str | None = None
) -> Closed:
    """`clients` encoded ModelInferRequests in flight until `requests` are answered. Raises `FailedPrecondition`, also
    when one of them fails.
    """
    flags = [f"--clients={clients}", f"--requests={requests}", f"--connections={connections}"]
    used = children_cpu_s()
    found = _run("closed", address, request, flags, _CLOSED_S, cpu)
    return Closed(requests / found["seconds"], found["p50_us"], found["p99_us"], children_cpu_s() - used)


def run_streams(
    address: str, request: bytes, *, streams: int, responses: int, seconds: int, cpu: str | None
) -> Streamed:
    """Responses over that many streams; each asks again when its `responses` have come."""
    flags = [f"--streams={streams}", f"--responses={responses}", f"--seconds={seconds}", "--connections=4"]
    found = _run("streams", address, request, flags, seconds, cpu)
    return Streamed(float(found["messages"]) / float(found["seconds"]), int(found["total"]))


def _run(
    mode: str, address: str, request: bytes, flags: list[str], seconds: float, cpu: str | None = None
) -> dict[str, Any]:
    file = ROOT / "build" / "bench-request.bin"
    file.write_bytes(request)
    command = ["taskset", "-c", cpu] if cpu else []
    command += [str(built("benchmarks", "mesh_load")), mode, f"--address={address}", f"--request={file}", *flags]
    return _json_of(command, seconds + _SPARE_S)


def _json_of(command: list[str], timeout_s: float) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
    if done.returncode != 0:
        raise FailedPrecondition(f"`{' '.join(command)}` failed: {done.stderr[-600:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def run_chain(rounds: int, *, servers: str, client: str) -> float:
    """Microseconds at p50 in which 200 bytes go from a client over a thread that passes them on to one that gives them
    back, and return: what a request through a proxy costs at least. Raises `FailedPrecondition`.
    """
    command = [str(built("benchmarks", "loopback_chain")), f"--rounds={rounds}"]
    found = _json_of([*command, f"--servers={servers}", f"--client={client}"], _CLOSED_S)
    return float(found["p50_us"])


def link_identity(folder: Path) -> Path:
    """A backend directory with the identity backend."""
    backends = folder / "backends"
    backends.mkdir(parents=True, exist_ok=True)
    link = backends / "identity"
    link.unlink(missing_ok=True)
    link.symlink_to(ROOT / "build" / "cmake" / "test_backends" / "identity")
    return backends
