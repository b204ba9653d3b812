"""perf_analyzer, Triton's own load generator: fetched, made runnable, run, and read."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from serving.errors import DeadlineExceeded, FailedPrecondition

ROOT: Final = Path(__file__).resolve().parent.parent
TOOLS: Final = ROOT / "build" / "tools"
# The last release whose wheel carries the binary.
_WHEEL: Final = "tritonclient==2.50.0"
_LOAD_S: Final = 30.0
_TRIES: Final = 5
# Columns of a report whose sum is the mean latency.
_LATENCY_PARTS: Final = (
    "Client Send",
    "Network+Server Send/Recv",
    "Server Queue",
    "Server Compute Input",
    "Server Compute Infer",
    "Server Compute Output",
    "Client Recv",
)
_LIBRARIES: Final = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}


@dataclass(frozen=True, slots=True)
class Load:
    """What perf_analyzer saw. Latencies in microseconds."""

    mean_us: float
    p50_us: float
    p99_us: float
    cpu_s: float  # that perf_analyzer itself used


def perf_analyzer() -> Path:
    """The binary, fetched from the package index on first use. Raises `FailedPrecondition`."""
    binary = TOOLS / "perf_analyzer"
    if binary.exists():
        return binary
    TOOLS.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--platform", "manylinux1_x86_64", "--dest", str(TOOLS), _WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise FailedPrecondition(f"perf_analyzer: `{' '.join(command)}` failed: {done.stderr.strip()[-400:]}")
    wheel = next(TOOLS.glob("tritonclient-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith("/perf_analyzer"))
        with archive.open(member) as source, (TOOLS / "perf_analyzer.part").open("wb") as target:
            shutil.copyfileobj(source, target)
    os.chmod(TOOLS / "perf_analyzer.part", 0o755)
    os.replace(TOOLS / "perf_analyzer.part", binary)
    wheel.unlink()
    return binary


def _library_path() -> str:
    """A folder with the libraries that the binary wants, under the names that it wants; the Triton wheel has them."""
    import importlib.util

    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise FailedPrecondition("nvidia-pytriton is not installed: run `make setup`")
    source = Path(spec.origin).parent.parent / "nvidia_pytriton.libs"
    folder = TOOLS / "lib"
    folder.mkdir(parents=True, exist_ok=True)
    for name, pattern in _LIBRARIES.items():
        found = sorted(source.glob(pattern))
        if not found:
            raise FailedPrecondition(f"{source} has no {pattern}, which perf_analyzer needs")
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(found[0])
    return str(folder)


def run_load(
    address: str,
    model: str,
    *,
    clients: int,
    requests: int,
    shapes: dict[str, str],
    cpu: str | None,
    protocol: str = "grpc",
    shared_output_bytes: int | None = None,
) -> Load:
    """Closed-loop load: `clients` requests in flight until `requests` are answered. With `shared_output_bytes` tensors
    travel in system shared memory, and outputs have that size.

    A fixed count, because perf_analyzer looks through the requests of a window in quadratic time while it goes on
    sending: with a fast server a run of windows never ends. Raises `FailedPrecondition`, and `DeadlineExceeded` when
    perf_analyzer does not end, which happens now and then with any server after the last answer: measure again.
    """
    report = TOOLS / f"report-{os.getpid()}.csv"
    command = [] if cpu is None else ["taskset", "-c", cpu]
    command += [str(perf_analyzer()), "-m", model, "-u", address, "-i", protocol]
    command += ["--concurrency-range", str(clients)]
    command += ["--request-count", str(requests), "-f", str(report)]
    if shared_output_bytes is not None:
        command += ["--shared-memory", "system", "--output-shared-memory-size", str(shared_output_bytes)]
    for name, shape in shapes.items():
        command += ["--shape", f"{name}:{shape}"]
    used = children_cpu_s()
    _run_to_report(command, report)
    return _read_report(report, children_cpu_s() - used)


def _run_to_report(command: list[str], report: Path) -> None:
    env = {**os.environ, "LD_LIBRARY_PATH": _library_path()}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=_LOAD_S)
    except subprocess.TimeoutExpired as error:
        raise DeadlineExceeded(f"`{' '.join(command)}` did not end within {_LOAD_S:.0f} s") from error
    if done.returncode != 0 or not report.exists():
        raise FailedPrecondition(f"`{' '.join(command)}` failed: {(done.stdout + done.stderr)[-600:]}")


def _read_report(report: Path, cpu_s: float) -> Load:
    """What the report says; it is removed."""
    with report.open(newline="") as file:
        row = next(csv.DictReader(file))
    report.unlink()
    mean_us = sum(float(row[part]) for part in _LATENCY_PARTS)
    return Load(mean_us, float(row["p50 latency"]), float(row["p99 latency"]), cpu_s)


def children_cpu_s() -> float:
    """CPU time of all ended children."""
    times = os.times()
    return times.children_user + times.children_system


T = TypeVar("T")


def patiently(measure: Callable[[], T]) -> T:
    """Measures again when the load generator did not end. Raises `DeadlineExceeded` after several times."""
    for _ in range(_TRIES - 1):
        with suppress(DeadlineExceeded):
            return measure()
    return measure()
