"""`<mesh_dir>/mesh.json`: what a local mesh consists of, for clients and for `mesh down`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from serving.errors import FailedPrecondition, MeshError, NotFound
from serving.process_id import ProcessId

STATE_FILE: Final = "mesh.json"
VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """One process of the mesh. `role`: supervisor, etcd, ray, keeper, agent or gateway."""

    name: str
    role: str
    identity: ProcessId
    log_file: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "role": self.role, "log_file": self.log_file, **self.identity.as_dict()}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> ProcessRecord:
        return ProcessRecord(str(data["name"]), str(data["role"]), ProcessId.from_dict(data), str(data["log_file"]))


@dataclass(frozen=True, slots=True)
class ClusterState:
    """One Ray cluster: where it listens, and the file with the token that it wants (empty: none)."""

    name: str
    ray_address: str
    token_file: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "ray_address": self.ray_address, "token_file": self.token_file}


@dataclass(frozen=True, slots=True)
class MeshState:
    """`phase`: starting, ready or stopping. `etcd` is the section that `serving.sdk.connection` reads.

    `gateway` is the HTTP gateway's host:port, `gateway_grpc` the gRPC gateway's; empty: there is none.
    """

    mesh_dir: Path
    phase: str
    etcd: Mapping[str, Any]
    artifacts: str
    clusters: tuple[ClusterState, ...] = ()
    processes: tuple[ProcessRecord, ...] = ()
    tls: Mapping[str, str] | None = None  # what clients use; None: plaintext
    gateway: str = ""
    gateway_grpc: str = ""

    @property
    def supervisor(self) -> ProcessRecord | None:
        return next((record for record in self.processes if record.role == "supervisor"), None)

    def running(self) -> bool:
        """True while its supervisor lives."""
        return self.supervisor is not None and self.supervisor.identity.alive()

    def with_process(self, record: ProcessRecord) -> MeshState:
        """A copy in which `record` replaces the one of the same name."""
        others = tuple(known for known in self.processes if known.name != record.name)
        return replace(self, processes=(*others, record))

    def save(self) -> None:
        """Writes the file atomically, readable by its owner only: it names token files."""
        data: dict[str, Any] = {
            "version": VERSION,
            "phase": self.phase,
            "etcd": dict(self.etcd),
            "artifacts": self.artifacts,
            "clusters": [cluster.as_dict() for cluster in self.clusters],
            "processes": [record.as_dict() for record in self.processes],
        }
        if self.tls is not None:
            data["tls"] = dict(self.tls)
        if self.gateway:
            data["gateway"] = self.gateway
        if self.gateway_grpc:
            data["gateway_grpc"] = self.gateway_grpc
        path = self.mesh_dir / STATE_FILE
        temporary = path.with_name(f".{STATE_FILE}.{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(data, file, indent=2)
            file.write("\n")
        os.replace(temporary, path)


def load_state(mesh_dir: Path) -> MeshState:
    """Reads the state of the mesh in a folder. Raises `NotFound`, or `FailedPrecondition` for a damaged file."""
    path = mesh_dir / STATE_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return MeshState(
            mesh_dir=mesh_dir,
            phase=str(data["phase"]),
            etcd=dict(data["etcd"]),
            artifacts=str(data["artifacts"]),
            clusters=tuple(ClusterState(**cluster) for cluster in data["clusters"]),
            processes=tuple(ProcessRecord.from_dict(record) for record in data["processes"]),
            tls=dict(data["tls"]) if data.get("tls") else None,
            gateway=str(data.get("gateway", "")),
            gateway_grpc=str(data.get("gateway_grpc", "")),
        )
    except FileNotFoundError:
        raise NotFound(f"no mesh in {mesh_dir}: start one with `mesh up --dir {mesh_dir}`") from None
    except (ValueError, KeyError, TypeError, MeshError) as error:
        raise FailedPrecondition(
            f"{path} is damaged ({error}): run `mesh down --dir {mesh_dir}`, then remove it"
        ) from error
