"""The two servers that are compared: our ingress, and the `tritonserver` binary of the same wheel."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
from tritonclient.grpc import service_pb2 as kserve

from serving.deployment.libraries import find_triton
from serving.errors import FailedPrecondition
from serving.local.ports import free_ports

ROOT: Final = Path(__file__).resolve().parent.parent
_START_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers, and its process."""

    name: str
    address: str
    http: str  # the address of its HTTP/REST protocol
    metrics: str  # the address of its page of metrics
    pid: int

    def requests(self, model: str) -> int:
        """How many inference requests the model has answered, as the server itself counts them."""
        return model_requests(self.address, model)


def model_requests(address: str, model: str) -> int:
    """What `ModelStatistics` says at that address."""
    raw = _call(address, "ModelStatistics", kserve.ModelStatisticsRequest(name=model).SerializeToString(), 10)
    statistics = kserve.ModelStatisticsResponse.FromString(raw)
    return sum(int(entry.inference_stats.success.count) for entry in statistics.model_stats)


def _call(address: str, method: str, request: bytes, timeout_s: float) -> bytes:
    with grpc.insecure_channel(address) as channel:
        plain: Any = channel.unary_unary  # its types know no calls without serializers
        answer: bytes = plain(f"/inference.GRPCInferenceService/{method}")(request, timeout=timeout_s)
        return answer


def pin(pid: int, cpus: str) -> None:
    """Binds all threads of a process to `cpus` ("0", "0,1")."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # a thread that has just ended
            os.sched_setaffinity(int(task.name), {int(cpu) for cpu in cpus.split(",")})


@contextlib.contextmanager
def running(name: str, repository: Path, backends: Path, *flags: str) -> Iterator[Server]:
    """Starts `mesh` or `tritonserver` with further flags of its own, and ends it. Raises `FailedPrecondition`."""
    port, http, metrics = free_ports(3)
    triton = find_triton()
    if name == "mesh":
        command = _mesh_command(repository, backends, triton.library, port)
    else:
        command = _tritonserver_command(repository, backends, port, http, metrics)
    command += flags
    log_file = ROOT / "build" / "logs" / f"bench-{name}.log"
    log_file.parent.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "LD_LIBRARY_PATH": ":".join(str(folder) for folder in triton.search_path)}
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env)
    try:
        _wait_ready(process, f"127.0.0.1:{port}", log_file)
        if name == "mesh":  # one port for all
            http = metrics = port
        yield Server(name, f"127.0.0.1:{port}", f"127.0.0.1:{http}", f"127.0.0.1:{metrics}", process.pid)
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def built(*parts: str) -> Path:
    """A program of the C++ build. Raises `FailedPrecondition`."""
    build = Path(os.environ.get("MESH_BUILD_DIR", "build/cmake"))
    binary = (ROOT / build / "cpp_ext").joinpath(*parts).resolve()
    if not binary.exists():
        raise FailedPrecondition(f"{binary} is missing: run `make setup`")
    return binary


def _mesh_command(repository: Path, backends: Path, library: Path, port: int) -> list[str]:
    command = [str(built("tests", "ingress", "ingress_server")), f"--library={library}", f"--repository={repository}"]
    return [*command, f"--backends={backends}", f"--port={port}"]


def _tritonserver_command(repository: Path, backends: Path, port: int, http: int, metrics: int) -> list[str]:
    import importlib.util

    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise FailedPrecondition("nvidia-pytriton is not installed: run `make setup`")
    binary = Path(spec.origin).parent / "tritonserver" / "bin" / "tritonserver"
    command = [str(binary), "--model-repository", str(repository), "--backend-directory", str(backends)]
    command += ["--grpc-port", str(port), "--http-port", str(http), "--metrics-port", str(metrics)]
    return [*command, "--grpc-address", "127.0.0.1", "--http-address", "127.0.0.1"]


def _wait_ready(process: subprocess.Popen[bytes], address: str, log_file: Path) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        if process.poll() is not None:
            raise FailedPrecondition(f"{process.args!r} ended with {process.returncode}; see {log_file}")
        try:
            if kserve.ServerReadyResponse.FromString(_call(address, "ServerReady", b"", 1)).ready:
                return
        except grpc.RpcError as error:
            if time.monotonic() > deadline:
                raise FailedPrecondition(f"{process.args!r} does not answer: {error}; see {log_file}") from error
        time.sleep(0.1)
