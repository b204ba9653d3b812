"""What a mesh on this machine is made of, whether it brings its own etcd and Ray or uses existing ones."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from serving.config import EtcdConfig, TlsConfig
from serving.deployment.libraries import PROXY_PROGRAM
from serving.errors import FailedPrecondition
from serving.local.ports import free_ports
from serving.local.ray_cluster import RayCluster, ray_environment
from serving.sdk.connection import ListenConfig, load_mesh_config
from serving.types import DEFAULT_MESH, is_name

LOOPBACK: Final = "127.0.0.1"
_NAME_FILE: Final = "mesh.name"


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """A Ray cluster that gets an agent. `env` is what a process needs before it imports Ray."""

    name: str
    ray_address: str
    token_file: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    listen: ListenConfig = field(default_factory=ListenConfig)


@dataclass(frozen=True, slots=True)
class MeshPlan:
    """Everything that keepers, agents and the gateways are started with.

    `gateway` is the host:port of the HTTP gateway, `gateway_grpc` that of the gRPC gateway; empty: none.
    `require_keys`: the HTTP gateway and applications' HTTP proxies ask clients for API keys, and there is no gRPC
    gateway, which knows none.
    """

    mesh_dir: Path
    etcd: EtcdConfig
    artifacts: str
    clusters: tuple[ClusterPlan, ...]
    listen: ListenConfig = field(default_factory=ListenConfig)
    client_tls: TlsConfig | None = None
    name: str = DEFAULT_MESH
    gateway: str = ""
    require_keys: bool = False
    gateway_grpc: str = ""

    @property
    def batch_store(self) -> Path:
        """The folder of files and batches, which the gateway and the clusters of this machine share."""
        return self.mesh_dir / "batches"

    def etcd_section(self) -> dict[str, Any]:
        """As `mesh.json` and the processes' configuration files hold it."""
        section: dict[str, Any] = {"endpoints": list(self.etcd.endpoints)}
        if self.etcd.tls is not None:
            tls = self.etcd.tls
            section["tls"] = {"ca_file": tls.ca_file, "cert_file": tls.cert_file, "key_file": tls.key_file}
        if self.etcd.user:
            section |= {"user": self.etcd.user, "password_file": self.etcd.password_file}
        return section


def local_plan(
    mesh_dir: Path,
    etcd: EtcdConfig,
    clusters: Mapping[str, RayCluster],
    *,
    gateway_port: int,
    gateway_grpc_port: int,
    require_keys: bool = False,
) -> MeshPlan:
    """Own etcd, own Ray clusters and gateways, all on loopback; no gRPC gateway where its program is not built."""
    http_port, grpc_port = free_ports(2)
    grpc = PROXY_PROGRAM.exists() and not require_keys
    artifacts = mesh_dir / "artifacts"
    artifacts.mkdir(mode=0o700, exist_ok=True)
    return MeshPlan(
        mesh_dir=mesh_dir,
        etcd=etcd,
        artifacts=artifacts.as_uri(),
        clusters=tuple(
            ClusterPlan(name, cluster.address, str(cluster.token_file), env=cluster.client_env)
            for name, cluster in clusters.items()
        ),
        name=local_name(mesh_dir),
        gateway=f"{LOOPBACK}:{gateway_port or http_port}",
        gateway_grpc=f"{LOOPBACK}:{gateway_grpc_port or grpc_port}" if grpc else "",
        require_keys=require_keys,
    )


def local_name(mesh_dir: Path) -> str:
    """The name of the mesh of a folder: made once, then kept in it. The caller holds the folder's lock.

    Raises `FailedPrecondition` when what was kept is damaged: with another name, what runs would not be found.
    """
    path = mesh_dir / _NAME_FILE
    try:
        name = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        name = f"local-{secrets.token_hex(4)}"
        temporary = path.with_name(f".{_NAME_FILE}.{os.getpid()}")
        temporary.write_text(f"{name}\n", encoding="utf-8")
        os.replace(temporary, path)
        return name
    if not is_name(name):
        raise FailedPrecondition(f"{path} holds {name!r}, which is no name of a mesh: run `mesh down`, then remove it")
    return name


def external_plan(mesh_dir: Path, config_file: Path) -> tuple[MeshPlan, int]:
    """Existing etcd and Ray clusters as `mesh.yaml` names them, and how many keepers it wants. Raises `SpecError`."""
    config = load_mesh_config(config_file)
    clusters = tuple(
        ClusterPlan(
            cluster.name,
            cluster.ray_address,
            cluster.token_file,
            labels=cluster.labels,
            env=ray_environment(Path(cluster.token_file)) if cluster.token_file else {},
            listen=cluster.listen,
        )
        for cluster in config.clusters
    )
    plan = MeshPlan(mesh_dir, config.etcd, config.artifacts, clusters, config.listen, config.tls, config.name)
    return plan, config.keepers
