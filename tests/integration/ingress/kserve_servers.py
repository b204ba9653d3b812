"""Starts the ingress and, as the oracle, the `tritonserver` binary of the wheel on the same models."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import sysconfig
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from serving.local.ports import free_ports
from tests.support.waiting import eventually

ROOT = Path(__file__).resolve().parents[3]
SITE = Path(sysconfig.get_path("purelib"))
TRITON_LIBRARIES = SITE / "nvidia_pytriton.libs"
TRITON_FOLDER = SITE / "pytriton" / "tritonserver"
START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 90
STARTS = 3

Running = TypeVar("Running", bound="KServeProcess")


def build_folder() -> Path:
    """The C++ build under test; MESH_BUILD_DIR names another one."""
    return Path(os.environ.get("MESH_BUILD_DIR", ROOT / "build" / "cmake")).resolve()


def ingress_binary() -> Path:
    return build_folder() / "cpp_ext" / "tests" / "ingress" / "ingress_server"


def compose_backends(folder: Path) -> Path:
    """A backend directory with the identity backend and Triton's Python backend for this interpreter."""
    identity = folder / "identity"
    identity.mkdir(parents=True)
    library = "libtriton_identity.so"
    (identity / library).symlink_to(build_folder() / "test_backends" / "identity" / library)
    python = folder / "python"
    python.mkdir()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    files = [
        TRITON_FOLDER / "backends" / "python" / name
        for name in ("libtriton_python.so", "triton_python_backend_utils.py")
    ]
    for file in [*files, TRITON_FOLDER / "python_backend_stubs" / version / "triton_python_backend_stub"]:
        (python / file.name).symlink_to(file)
    return folder


class KServeProcess:
    """A running server with a channel to it. Ends by its own process id; must end cleanly."""

    def __init__(self, command: list[str], log: Path, environment: dict[str, str] | None = None) -> None:
        self.log = log
        self._log_file = log.open("ab")
        # Triton's Python backend takes the first python3 of PATH for its own.
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
        full = {**os.environ, "PATH": path, **(environment or {})}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log_file, env=full)
        self.address = ""
        self.channel: Any  # methods are called with and without serializers
        self.stub: Any  # tritonclient carries no types

    def connect(self, address: str) -> None:
        self.address = address
        self.channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)])
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> int:
        """Ask it to end; its exit status."""
        if self.alive():
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        finally:
            if self.alive():
                self.process.kill()
                self.process.wait()
            self.channel.close()
            self._log_file.close()

    def __enter__(self: Running) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        status = self.stop()
        if error is None and status != 0:
            raise AssertionError(f"exit status {status}:\n{self.log.read_text()[-4000:]}")


class Ingress(KServeProcess):
    """cpp_ext/tests/ingress/ingress_server.cc; options are its flags."""

    def __init__(self, repository: Path, backends: Path, log: Path, *options: str) -> None:
        flags = [f"--library={TRITON_LIBRARIES}", f"--repository={repository}", f"--backends={backends}", *options]
        super().__init__([str(ingress_binary()), *flags], log)
        line = self.process.stdout.readline() if self.process.stdout else b""
        if not line:
            raise AssertionError(f"the ingress did not start:\n{log.read_text()[-4000:]}")
        said = json.loads(line)
        self.metrics_address: str = said["metrics"]
        self.failed: dict[str, str] = said["failed"]
        self.connect(said["address"])

    def drain(self) -> None:
        """Set draining and wait until it shows."""
        self.process.send_signal(signal.SIGUSR1)
        eventually(
            lambda: not self.stub.ServerReady(pb.ServerReadyRequest(), timeout=60).ready, timeout_s=60, what="draining"
        )


def series(metrics_address: str, name: str) -> list[float]:
    """The values of a metric's series; `name` may go on with the labels that a series begins with."""
    with urllib.request.urlopen(f"http://{metrics_address}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    # What follows the name or label must end it: `mesh_rpc_calls` is not `mesh_rpc_calls_total`.
    return [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name) and line[len(name)] in "{, "]


def metric(server: Ingress, name: str) -> float:
    """The sum of a metric's series, 0 when there is none yet."""
    return sum(series(server.metrics_address, name))


def gauge(server: Ingress, name: str) -> float:
    """The one series of a metric; raises `ValueError` when there is none, which a sum would take for 0."""
    (value,) = series(server.metrics_address, name)
    return value


def in_flight(server: Ingress) -> float:
    """The requests that the server has taken and not answered."""
    return gauge(server, "mesh_ingress_in_flight")


class Oracle(KServeProcess):
    """The `tritonserver` of the wheel, with the same models and backends; options are its flags.

    How it ends is not ours to judge, and nor is when: streams of decoupled models end it now and then, and so does its
    Python backend where the machine stops for some seconds while a model loads.
    """

    def __init__(self, repository: Path, backends: Path, log: Path, *options: str) -> None:
        self._options = [*options, f"--model-repository={repository}", f"--backend-directory={backends}"]
        self._start(log)

    def _start(self, log: Path) -> None:
        port, http_port = free_ports(2)  # no port of outgoing connections: it listens seconds later
        self.http_address = f"127.0.0.1:{http_port}"
        flags = ["--allow-metrics=false", "--grpc-address=127.0.0.1", "--http-address=127.0.0.1", "--log-info=0"]
        flags += [f"--http-port={http_port}", f"--grpc-port={port}", *self._options]
        binary = str(TRITON_FOLDER / "bin" / "tritonserver")
        for _ in range(STARTS):
            super().__init__([binary, *flags], log, {"LD_LIBRARY_PATH": str(TRITON_LIBRARIES)})
            self.connect(f"127.0.0.1:{port}")
            eventually(lambda: not self.alive() or self._ready(), timeout_s=START_TIMEOUT_S, what="tritonserver")
            if self.alive():
                return
            self.stop()
        raise RuntimeError(f"tritonserver ended {STARTS} times:\n{self.log.read_text()[-4000:]}")

    def revive(self) -> None:
        """Starts it again if it has ended, with the models and settings of its first start."""
        if not self.alive():
            self.stop()
            self._start(self.log)

    def survives(self, code: str) -> bool:
        """Whether it is still there after a call that ended with this code."""
        if code == "UNAVAILABLE":  # what a client is told of a process that is about to end
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        return self.alive()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _ready(self) -> bool:
        try:
            return bool(self.stub.ServerReady(pb.ServerReadyRequest(), timeout=5).ready)
        except grpc.RpcError:
            return False
