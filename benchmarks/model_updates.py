"""New models for one running replica, one after the other under traffic: how many a minute, and what is lost."""

from __future__ import annotations

import shutil
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.processes import resident_bytes
from benchmarks.results import keep_results
from benchmarks.servers import ROOT
from serving import Application, Connection, MeshClient, Replicas, Resources, TritonDeployment
from serving.local.mesh import UpOptions, down, up

Say = Callable[[str], None]
_CLIENTS: Final = 4
_SHOWN_EVERY: Final = 20
_FULL: Final = 200  # updates of a full run


def write_model(repository: Path, number: int) -> None:
    """A model `adder` that answers Y = X + number."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["X", "number"], ["Y"])],
        "adder",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(np.array([number], np.float32), "number")],
    )
    folder = repository / "adder" / "1"
    folder.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")


def application(repository: Path) -> Application:
    deployment = TritonDeployment(
        name="main", repository=repository, resources=Resources(cpus=0.5), replicas=Replicas(1), update="in_place"
    )
    return Application(name="updates", deployments=[deployment])


class Traffic:
    """Clients that ask without a pause; each answer must be of a model that was deployed."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(_CLIENTS)]
        self._lock = threading.Lock()
        self.oldest = 0  # the model that served when the last deployment was done
        self.newest = 0
        self.times_s: list[float] = []
        self.failed: list[str] = []
        self.wrong = 0

    def _run(self) -> None:
        with MeshClient(self._connection) as client:
            while not self._over.is_set():
                oldest, started = self.oldest, time.perf_counter()
                try:
                    answer = client.infer("updates", "adder", {"X": np.array([1], np.float32)}, timeout_s=30)
                except Exception as error:  # noqa: BLE001 - whatever it is, the request is lost
                    self.failed.append(repr(error))
                    continue
                with self._lock:
                    self.times_s.append(time.perf_counter() - started)
                    self.wrong += not oldest <= float(answer["Y"][0]) - 1 <= self.newest

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def run(quick: bool, say: Say) -> str:
    mesh_dir, updates = ROOT / "build" / "bench-updates", 20 if quick else _FULL
    repository = mesh_dir.with_name("bench-updates-models")
    shutil.rmtree(mesh_dir, ignore_errors=True)
    write_model(repository, 0)
    up(UpOptions(mesh_dir, clusters=1, cpus_per_cluster=4), say)
    try:
        with MeshClient(Connection.local(mesh_dir)) as client:
            return _measure(client, Connection.local(mesh_dir), repository, updates, say)
    finally:
        down(mesh_dir, say)


def _measure(client: MeshClient, connection: Connection, repository: Path, updates: int, say: Say) -> str:
    client.deploy(application(repository), wait=True, timeout_s=120)
    (before,) = client.endpoints("updates")
    took, sizes = [], []
    with Traffic(connection) as traffic:
        for number in range(1, updates + 1):
            write_model(repository, number)
            traffic.newest = number
            started = time.monotonic()
            client.deploy(application(repository), wait=True, timeout_s=120)
            took.append(time.monotonic() - started)
            traffic.oldest = number
            if number % _SHOWN_EVERY == 0:
                sizes.append(resident_bytes(before.pid))
                say(f"update {number} of {updates}: {took[-1]:.2f} s, replica {sizes[-1] / 2**20:.0f} MB")
    (after,) = client.endpoints("updates")
    latencies = statistics.quantiles(traffic.times_s, n=100)
    rows = (
        ("updates (deploy of a revision until it serves)", f"{updates}"),
        ("updates a minute, one after the other", f"{60 / statistics.mean(took):.0f}"),
        ("an update, median and longest", f"{statistics.median(took):.2f} s, {max(took):.2f} s"),
        ("requests meanwhile", f"{len(traffic.times_s)}"),
        ("failed, answered by a model that was replaced", f"{len(traffic.failed)}, {traffic.wrong}"),
        ("latency of requests, p50 and p99", f"{latencies[49] * 1e3:.1f} ms, {latencies[98] * 1e3:.1f} ms"),
        ("memory of the replica, first and last look", f"{sizes[0] / 2**20:.0f} MB, {sizes[-1] / 2**20:.0f} MB"),
        ("the same process", "yes" if after.pid == before.pid else "no"),
    )
    if updates == _FULL:
        keep_results("updates", [dict(rows), {"update_s": took, "memory_bytes": sizes}])
    return "\n".join(["| what | |", "| --- | --- |", *(f"| {what} | {value} |" for what, value in rows)])
