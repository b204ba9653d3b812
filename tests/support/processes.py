"""Processes of a Ray cluster, told apart by what the kernel knows of them."""

from __future__ import annotations

from pathlib import Path

from serving.local.ray_cluster import RayCluster

# Of cpp_ext/deployment/replica.cc, from its start to its end, and of cpp_ext/actor/termination.cc (also of proxies).
_ACTOR_THREADS = {b"replica", b"termination"}


def master_pids(cluster: RayCluster) -> list[int]:
    return [pid for pid in cluster.pids() if b"ray::MasterActor" in _read(pid, "cmdline")]


def replica_pids(cluster: RayCluster) -> list[int]:
    """Processes in which a replica or a proxy lives. Ray's spare workers have the library too, and are none."""
    pids = cluster.pids()
    loaded = [pid for pid in pids if b"/libmesh_actor.so" in _read(pid, "maps")]
    actors = (b"ray::PythonActor", b"ray::ServeActor")
    python = [pid for pid in pids if any(name in _read(pid, "cmdline") for name in actors)]
    return [*(pid for pid in loaded if _ACTOR_THREADS & _threads(pid)), *python]


def _threads(pid: int) -> set[bytes]:
    try:
        return {_read(pid, f"task/{thread.name}/comm").strip() for thread in Path(f"/proc/{pid}/task").iterdir()}
    except OSError:
        return set()  # ended in between


def _read(pid: int, file: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes()
    except OSError:
        return b""  # ended in between
