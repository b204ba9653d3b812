"""Keepers, cluster agents and the gateways as child processes: how each is started, and started again when it ends."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from serving.deployment.libraries import PROXY_PROGRAM
from serving.errors import FailedPrecondition
from serving.local.plan import ClusterPlan, MeshPlan
from serving.local.process import Process, log_tail
from serving.local.restart_pauses import RestartPauses
from serving.local.state import ProcessRecord

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A process to keep running: the Python module, or else the `program`, with `config_file` behind it.

    `config` is written to `config_file` before each start.
    """

    name: str
    role: str
    module: str
    config_file: Path
    log_file: Path
    config: Mapping[str, Any]
    env: Mapping[str, str] = field(default_factory=dict)
    program: str = ""

    @property
    def command(self) -> list[str]:
        if self.program:
            return [self.program, str(self.config_file)]
        return [sys.executable, "-m", self.module, "--config", str(self.config_file)]


def keeper_spec(plan: MeshPlan, index: int) -> ChildSpec:
    """The keeper with this index. It chooses its ports itself and is found through etcd."""
    name = f"keeper-{index}"
    listen = plan.listen
    config: dict[str, Any] = {"id": name, "etcd": plan.etcd_section(), "listen": f"{_bracketed(listen.host)}:0"}
    config["advertise_host"] = listen.advertise_host
    config["metrics_listen"] = "127.0.0.1:0"  # without authentication, so never further than this machine
    if listen.tls is not None:
        config["tls"] = asdict(listen.tls)
    return _spec(plan, name, "keeper", "keeper", config, {})


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def agent_spec(plan: MeshPlan, cluster: ClusterPlan) -> ChildSpec:
    """The agent of one Ray cluster."""
    config: dict[str, Any] = {
        "mesh": plan.name,
        "cluster": cluster.name,
        "ray_address": cluster.ray_address,
        "etcd": plan.etcd_section(),
        "labels": dict(cluster.labels),
        "mesh_dir": str(plan.mesh_dir),
        "listen_host": cluster.listen.host,
        "advertise_host": cluster.listen.advertise_host,
    }
    if plan.require_keys:  # else it goes by where they listen
        config["require_keys"] = True
    if cluster.listen.tls is not None:
        config["serving_tls"] = asdict(cluster.listen.tls)
    return _spec(plan, f"agent-{cluster.name}", "agent", "serving.cluster_agent", config, cluster.env)


def gateway_spec(plan: MeshPlan) -> ChildSpec:
    """The gateway of a local mesh. Its port is the same after each start, so that clients find it again."""
    config = {
        "etcd": plan.etcd_section(),
        "listen": plan.gateway,
        "require_keys": plan.require_keys,
        "batch_store": plan.batch_store.as_uri(),
    }
    return _spec(plan, "gateway", "gateway", "serving.gateway", config, {})


def gateway_grpc_spec(plan: MeshPlan) -> ChildSpec:
    """The gRPC gateway of a local mesh: the proxy's program, for all applications."""
    host, _, port = plan.gateway_grpc.rpartition(":")
    config = {
        "id": "gateway-grpc",
        "edge": True,
        "etcd": {"endpoints": list(plan.etcd.endpoints)},
        "listenHost": host,
        "listenPort": int(port),
    }
    return replace(_spec(plan, "gateway-grpc", "gateway", "", config, {}), program=str(PROXY_PROGRAM))


def _spec(
    plan: MeshPlan, name: str, role: str, module: str, config: Mapping[str, Any], env: Mapping[str, str]
) -> ChildSpec:
    config_file = plan.mesh_dir / "config" / f"{name}.json"
    return ChildSpec(name, role, module, config_file, plan.mesh_dir / "logs" / f"{name}.log", config, env)


class Child:
    """One process that is started again when it ends."""

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self._process: Process | None = None
        self._pauses = RestartPauses()

    def start(self, now_s: float = 0.0) -> None:
        """Starts it. Raises `FailedPrecondition` when it cannot be executed."""
        self.spec.config_file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.spec.config_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(self.spec.config, file, indent=2)
        self._process = Process.start(self.spec.name, self.spec.command, log_file=self.spec.log_file, env=self.spec.env)
        self._pauses.started(now_s)

    def record(self) -> ProcessRecord:
        """For `mesh.json`."""
        if self._process is None:
            raise FailedPrecondition(f"{self.spec.name} was not started")
        return ProcessRecord(self.spec.name, self.spec.role, self._process.identity, str(self.spec.log_file))

    def raise_if_ended(self) -> None:
        """Raises `FailedPrecondition` with the end of its log when it does not run any more."""
        if self._process is not None and not self._process.running():
            status = self._process.exit_status()
            tail = log_tail(self.spec.log_file)
            raise FailedPrecondition(
                f"{self.spec.name} ended with status {status}; end of {self.spec.log_file}:\n{tail}"
            )

    def keep_running(self, now_s: float) -> bool:
        """Starts it again when it ended and its pause is over; `now_s` is monotonic. True when it was started."""
        if self._process is None or self._process.running():
            return False
        if self._pauses.ended(now_s):
            status, log_file = self._process.exit_status(), str(self.spec.log_file)
            _log.error(
                "a process of the mesh ended and is started again",
                extra={"process_name": self.spec.name, "status": status, "log_file": log_file},
            )
        if not self._pauses.over(now_s):
            return False
        self._process.kill()  # what is left of its group
        self.start(now_s)
        return True

    def stop(self) -> None:
        """Ends it and its group. May be repeated."""
        if self._process is not None:
            self._process.stop()
