"""`scripts/gpu-check`: what only a machine with an NVIDIA GPU can show. Each check passes, fails, or says why it skips.

`--rehearse` runs all checks on any machine, with CPU instances where there is no GPU: what fails then is the check.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput, service_pb2
from tritonclient.utils import InferenceServerException

from benchmarks.gpu_models import write_models
from benchmarks.load import run_streams
from benchmarks.processes import cpu_s
from benchmarks.results import keep_results
from benchmarks.servers import ROOT, Server, running
from serving.errors import MeshError
from serving.local.gpus import count_gpus

FOLDER: Final = ROOT / "build" / "gpu-check"
_STREAMS: Final = 16
_SECONDS: Final = 5


class Skip(Exception):
    """Why a check cannot be made here."""


class Failed(Exception):
    """What a check found wrong."""


@dataclass(frozen=True, slots=True)
class Machine:
    gpus: int
    repository: Path
    backends: Path

    @property
    def kind(self) -> str:
        return "GPU" if self.gpus else "CPU"


def instances(machine: Machine) -> str:
    """The embedded Triton starts a Python model's instances on the GPU, and they compute there with torch."""
    with running("mesh", machine.repository, machine.backends) as server:
        kind, device, doubled = _ask(server)
    if kind != machine.kind:
        raise Failed(f"the model runs on {kind}, not {machine.kind}")
    if doubled != [2.0, 4.0, 6.0]:
        raise Failed(f"the model answers {doubled}, not twice [1, 2, 3]")
    if importlib.util.find_spec("torch") is None:
        return f"instances on {kind}; torch is not installed, so the model computed with numpy"
    if machine.gpus and not device.startswith("cuda"):
        raise Failed(f"torch computed on {device}, not on the GPU")
    return f"instances on {kind}, torch computed on {device}"


def _ask(server: Server) -> tuple[str, str, list[float]]:
    with InferenceServerClient(server.address) as client:
        values = np.array([1, 2, 3], np.float32)
        source = InferInput("INPUT0", [3], "FP32")
        source.set_data_from_numpy(values)
        answer = client.infer("twice", [source])
        kind, device = (text.decode() for text in answer.as_numpy("WHERE"))
        return kind, device, answer.as_numpy("OUTPUT0").tolist()


def pinned_memory(machine: Machine) -> str:
    """Triton makes its pool of pinned host memory, which copies to a GPU need."""
    with running("mesh", machine.repository, machine.backends, "--log-verbose=1"):
        log = (ROOT / "build" / "logs" / "bench-mesh.log").read_text()
    made = [line for line in log.splitlines() if "Pinned memory pool is created" in line]
    if made:
        return made[0].split("] ")[-1]
    if not machine.gpus:
        raise Skip("Triton makes none without a GPU")
    raise Failed("Triton's log names no pool of pinned memory")


def gpu_metrics(machine: Machine) -> str:
    """Triton's metrics of GPUs are on the replica's page."""
    if not machine.gpus:
        raise Skip("Triton has such metrics only where there is a GPU")
    with (
        running("mesh", machine.repository, machine.backends) as server,
        urllib.request.urlopen(f"http://{server.http}/metrics", timeout=30) as page,
    ):
        text = page.read().decode()
    wanted = ("nv_gpu_utilization", "nv_gpu_memory_total_bytes", "nv_gpu_memory_used_bytes")
    missing = [name for name in wanted if f"\n{name}{{" not in text]
    if missing:
        raise Failed(f"/metrics has no {', '.join(missing)}")
    return ", ".join(wanted)


def cuda_shared_memory(machine: Machine) -> str:
    """A client's GPU memory as input and output."""
    if not machine.gpus:
        raise Skip("there is no GPU memory")
    try:
        import tritonclient.utils.cuda_shared_memory as cuda
    except (ImportError, OSError, InferenceServerException) as error:
        raise Skip(f"tritonclient's CUDA module cannot be loaded: {error}") from error
    values = np.array([1, 2, 3], np.float32)
    region = cuda.create_shared_memory_region("gpu_check", 2 * values.nbytes, 0)
    try:
        cuda.set_shared_memory_region(region, [values])
        with running("mesh", machine.repository, machine.backends) as server:
            return _infer_in(cuda, region, server, values)
    finally:
        cuda.destroy_shared_memory_region(region)


def _infer_in(cuda: Any, region: Any, server: Server, values: np.ndarray[Any, Any]) -> str:
    with InferenceServerClient(server.address) as client:
        try:
            client.register_cuda_shared_memory("gpu_check", cuda.get_raw_handle(region), 0, 2 * values.nbytes)
        except InferenceServerException as error:
            if "no GPU support" not in error.message():
                raise
            raise Skip(f"not built yet: {error.message()}") from error
        source = InferInput("INPUT0", [3], "FP32")
        source.set_shared_memory("gpu_check", values.nbytes)
        target = InferRequestedOutput("OUTPUT0")
        target.set_shared_memory("gpu_check", values.nbytes, values.nbytes)
        client.infer("twice", [source], outputs=[target])
    found = cuda.get_contents_as_numpy(region, np.float32, [3], values.nbytes).tolist()
    if found != (2 * values).tolist():
        raise Failed(f"the region holds {found} after the answer")
    return "input and output in GPU memory"


def throughput(machine: Machine) -> str:
    """The same model in our ingress and in this machine's `tritonserver`, over 16 streams of one request each."""
    request = service_pb2.ModelInferRequest(model_name="twice")
    request.inputs.add(name="INPUT0", datatype="FP32", shape=[1024])
    request.raw_input_contents.append(bytes(4096))
    said = []
    for name in ("mesh", "tritonserver"):
        with running(name, machine.repository, machine.backends) as server:
            before = cpu_s(server.pid)
            found = run_streams(
                server.address, request.SerializeToString(), streams=_STREAMS, responses=1, seconds=_SECONDS, cpu=None
            )
            cpu_us = 1e6 * (cpu_s(server.pid) - before) / found.total
            said.append(f"{name} {found.rate:,.0f}/s at {cpu_us:.0f} µs of CPU")
    return ", ".join(said)


CHECKS: Final[tuple[Callable[[Machine], str], ...]] = (
    instances,
    pinned_memory,
    gpu_metrics,
    cuda_shared_memory,
    throughput,
)


def run_checks(machine: Machine, say: Callable[[str], None]) -> list[dict[str, str]]:
    """One outcome for each check: `ok`, `skipped` or `FAILED`, and what was seen."""
    found = []
    for check in CHECKS:
        try:
            outcome, what = "ok", check(machine)
        except Skip as skipped:
            outcome, what = "skipped", str(skipped)
        except (
            Failed,
            MeshError,
            InferenceServerException,
            grpc.RpcError,
            OSError,
            subprocess.TimeoutExpired,
        ) as error:
            outcome, what = "FAILED", str(error)
        found.append({"check": check.__name__, "outcome": outcome, "what": what})
        say(f"{outcome:8} {check.__name__.replace('_', ' ')}: {what}")
    return found


def names_of_gpus() -> list[str]:
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.splitlines()


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/gpu-check", description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="run every check, also without a GPU")
    options = parser.parse_args()
    gpus = count_gpus()
    if gpus == 0 and not options.rehearse:
        print("gpu-check: skipped: no NVIDIA GPU here (nvidia-smi lists none, or CUDA_VISIBLE_DEVICES hides all)")
        return 0
    for line in names_of_gpus() if gpus else ["no GPU: a rehearsal on CPUs"]:
        print(f"gpu-check: {line}", flush=True)
    repository, backends = write_models(FOLDER, "GPU" if gpus else "CPU")
    found = run_checks(Machine(gpus, repository, backends), lambda text: print(text, flush=True))
    if gpus:
        keep_results("gpu", [{"gpu": names_of_gpus()}, *found])
    return 1 if any(one["outcome"] == "FAILED" for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
