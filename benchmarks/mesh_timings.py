"""Times of a whole mesh: deploy to first answer, a killed replica's way out of discovery, memory of each process."""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.processes import resident_bytes
from benchmarks.results import keep_results
from benchmarks.servers import ROOT
from serving import Connection, MeshClient, load_spec
from serving.errors import DeadlineExceeded
from serving.local.mesh import UpOptions, down, load_state, up
from serving.local.ray_cluster import find_ray_cluster

DIGITS: Final = ROOT / "examples" / "digits"
Say = Callable[[str], None]


def deploy_to_first_answer(client: MeshClient, repeats: int, say: Say) -> list[float]:
    """Seconds from `deploy(wait=True)` of an application that is not there to the first right answer."""
    image = np.load(DIGITS / "seven.npy")
    times = []
    for number in range(repeats):
        started = time.monotonic()
        client.deploy(load_spec(DIGITS / "app.yaml"), wait=True, timeout_s=120)
        client.infer("digits", "digits", {"image": image})
        times.append(time.monotonic() - started)
        say(f"deploy {number + 1} of {repeats}: {times[-1]:.2f} s")
        if number + 1 < repeats:
            client.delete("digits", wait=True)
    return times


def kill_to_discovery(client: MeshClient, repeats: int, say: Say) -> list[float]:
    """Seconds from `kill -9` of a replica to a discovery without it."""
    times = []
    for number in range(repeats):
        _wait(lambda: len(client.endpoints("digits")) == 2)
        victim = client.endpoints("digits")[0]
        started = time.monotonic()
        os.kill(victim.pid, signal.SIGKILL)
        _wait(lambda: victim.pid not in {endpoint.pid for endpoint in client.endpoints("digits")})  # noqa: B023
        times.append(time.monotonic() - started)
        say(f"kill {number + 1} of {repeats}: out of discovery after {times[-1]:.2f} s")
    _wait(lambda: len(client.endpoints("digits")) == 2)
    return times


def memory(mesh_dir: Path, client: MeshClient) -> dict[str, int]:
    """Proportional resident bytes of each process of the mesh."""
    found = {}
    for record in load_state(mesh_dir).processes:
        if record.role != "ray":
            found[record.name] = resident_bytes(record.identity.pid)
            continue
        cluster = find_ray_cluster(mesh_dir / "ray" / record.name.removeprefix("ray-"))
        replicas = {endpoint.pid for endpoint in client.endpoints("digits")}
        pids = cluster.pids() if cluster is not None else []
        found[f"{record.name}, all but replicas"] = sum(resident_bytes(pid) for pid in pids if pid not in replicas)
    for endpoint in client.endpoints("digits"):
        found[f"replica {endpoint.id}"] = resident_bytes(endpoint.pid)
    return found


def run(quick: bool, say: Say) -> str:
    mesh_dir = ROOT / "build" / "bench-mesh"
    shutil.rmtree(mesh_dir, ignore_errors=True)
    up(UpOptions(mesh_dir, clusters=1, cpus_per_cluster=4), say)
    try:
        with MeshClient(Connection.local(mesh_dir)) as client:
            deploys = deploy_to_first_answer(client, 3 if quick else 10, say)
            kills = kill_to_discovery(client, 3 if quick else 10, say)
            sizes = memory(mesh_dir, client)
    finally:
        down(mesh_dir, say)
    if not quick:
        keep_results("mesh", [{"deploy_to_answer_s": deploys, "kill_to_discovery_s": kills, "memory_bytes": sizes}])
    lines = ["| what | median | lowest | highest |", "| --- | --- | --- | --- |"]
    for title, times in (
        ("`mesh deploy --wait` to first answer", deploys),
        ("`kill -9` of a replica to discovery", kills),
    ):
        lines.append(f"| {title} | {statistics.median(times):.2f} s | {min(times):.2f} s | {max(times):.2f} s |")
    lines += ["", "| process | memory (proportional share) |", "| --- | --- |"]
    lines += [f"| {name} | {size / 2**20:.0f} MB |" for name, size in sizes.items()]
    return "\n".join(lines)


def _wait(look: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not look():
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"not within {timeout_s:g} s")
        time.sleep(0.01)
