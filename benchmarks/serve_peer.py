"""Ray Serve as a peer: a Ray cluster of its own with Serve's gRPC ingress, HAProxy and throughput mode, and an echo.

What Ray documents for throughput is on, what costs time for each request and is not asked for (logs) is off.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.processes import cpu_s
from benchmarks.serve_echo import MODEL
from benchmarks.servers import ROOT, model_requests
from serving.errors import FailedPrecondition
from serving.local.ports import free_ports
from serving.local.ray_cluster import RayCluster, RayClusterOptions, start_ray_cluster

_DEPLOY_S: Final = 180.0
# What handles requests; GCS, raylet, agents and Serve's controller do not.
_REPLICA: Final = "ray::ServeReplica"
_ON_THE_PATH: Final = ("haproxy", "ray::HAProxyManager", "ray::ProxyActor", _REPLICA)


@dataclass(frozen=True, slots=True)
class ServePeer:
    address: str
    cluster: RayCluster

    def requests(self) -> int:
        """How many inference requests the deployment has answered, as it counts them itself."""
        return model_requests(self.address, MODEL)

    def on_the_path(self) -> dict[int, str]:
        """What handles requests: the name of each process by its id, which change when HAProxy is configured anew."""
        found = {}
        for pid in self.cluster.pids():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # one that has just ended
                title = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
                name = next((name for name in _ON_THE_PATH if Path(title).name.startswith(name)), None)
                if name:
                    found[pid] = name
        return found

    def cpu_s(self) -> tuple[float, float]:
        """CPU time so far of HAProxy and Serve's own proxies together, and of the replica."""
        used = dict.fromkeys(_ON_THE_PATH, 0.0)
        for pid, name in self.on_the_path().items():
            used[name] += cpu_s(pid)
        replica = used.pop(_REPLICA)
        return sum(used.values()), replica


@contextlib.contextmanager
def running_serve() -> Iterator[ServePeer]:
    """Starts the cluster, deploys the echo, and ends all of its processes by their ids. Raises `FailedPrecondition`."""
    http, grpc, *others = free_ports(6)
    # HAProxy's sockets have paths of at most 107 bytes, and its defaults are the same for all clusters of a machine.
    folder = Path(tempfile.mkdtemp(prefix="mesh-haproxy-"))
    env = _serve_environment(folder, others)
    try:
        cluster = start_ray_cluster(
            "bench-serve", ROOT / "build" / "bench-serve", options=RayClusterOptions(env=env, die_with_parent=True)
        )
        try:
            _deploy(cluster, env, http, grpc)
            yield ServePeer(f"127.0.0.1:{grpc}", cluster)
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _serve_environment(folder: Path, ports: list[int]) -> dict[str, str]:
    names = ("HAPROXY_STATS", "HAPROXY_METRICS", "FALLBACK_PROXY_HTTP", "FALLBACK_PROXY_GRPC")
    return {
        **{f"RAY_SERVE_{name}_PORT": str(port) for name, port in zip(names, ports, strict=True)},
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        # HAProxy has no switch for its log of requests: one of a million is as good as none.
        "RAY_SERVE_HAPROXY_LOG_TARGET": "127.0.0.1:514 sample 1:1000000",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
    }


def _deploy(cluster: RayCluster, env: dict[str, str], http: int, grpc: int) -> None:
    command = [sys.executable, "-m", "benchmarks.serve_echo", str(http), str(grpc)]
    whole = {**os.environ, **env, **cluster.client_env, "RAY_ADDRESS": cluster.address}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=ROOT, env=whole, timeout=_DEPLOY_S
        )
    except subprocess.TimeoutExpired as error:
        raise FailedPrecondition(
            f"Ray Serve had no echo after {_DEPLOY_S:.0f} s; its logs are below {cluster.directory}"
        ) from error
    if done.returncode != 0:
        raise FailedPrecondition(f"`{' '.join(command)}` failed: {(done.stdout + done.stderr)[-800:]}")
