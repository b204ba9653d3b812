"""Processes of a Ray cluster, told apart by what the kernel knows of them."""

from __future__ import annotations

from pathlib import Path

from serving.local.ray_cluster import RayCluster


def master_pids(cluster: RayCluster) -> list[int]:
    return [pid for pid in cluster.pids() if b"ray::MasterActor" in _read(pid, "cmdline")]


def replica_pids(cluster: RayCluster) -> list[int]:
    return [pid for pid in cluster.pids() if b"/libmesh_actor.so" in _read(pid, "maps")]


def _read(pid: int, file: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes()
    except OSError:
        return b""  # ended in between
