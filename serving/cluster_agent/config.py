"""What an agent process is told: a JSON file, overridden by flags."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.config import EtcdConfig, TlsConfig
from serving.errors import InvalidArgument
from serving.master.config import MasterConfig
from serving.types import DEFAULT_MESH, NAME_RULE, is_name
from serving.validation import closest_match


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """`mesh` is the mesh's name: agents of different meshes must not have the same in one Ray cluster.

    `mesh_dir` holds logs and the artifact cache; `library` is the C++ actor, by default the built one.
    `ray_token_file` is for clusters with token authentication. `ray_away_s` is how long Ray may not answer before the
    cluster's record is taken back, so that keepers place its applications elsewhere.
    """

    cluster: str
    ray_address: str
    etcd: EtcdConfig
    mesh: str = DEFAULT_MESH
    labels: Mapping[str, str] = field(default_factory=dict)
    mesh_dir: str = ""
    cache_dir: str = ""
    library: str = ""
    python: str = ""
    ray_token_file: str = ""
    listen_host: str = "127.0.0.1"
    advertise_host: str = ""
    serving_tls: TlsConfig | None = None
    replica_env: Mapping[str, str] = field(default_factory=dict)
    lease_ttl_s: int = 10
    replica_lease_ttl_s: int = 5
    refresh_s: float = 2.0
    ray_away_s: float = 5.0
    log_level: str = "info"
    log_file: str = ""

    def library_path(self) -> Path:
        return (
            Path(self.library) if self.library else Path(__file__).resolve().parent.parent / "_lib" / "libmesh_actor.so"
        )

    def master_config(self) -> MasterConfig:
        """What its masters are told."""
        cache = self.cache_dir or (
            str(Path(self.mesh_dir) / "cache") if self.mesh_dir else str(Path.home() / ".cache" / "mesh")
        )
        return MasterConfig(
            mesh=self.mesh,
            cluster=self.cluster,
            etcd=self.etcd,
            python=self.python or sys.executable,
            cache_dir=cache,
            mesh_dir=self.mesh_dir,
            listen_host=self.listen_host,
            advertise_host=self.advertise_host,
            lease_ttl_s=self.replica_lease_ttl_s,
            log_level=self.log_level,
            serving_tls=self.serving_tls,
            replica_env=dict(self.replica_env),
        )


def load(path: Path) -> dict[str, Any]:
    """The plain values of a JSON file. Raises `InvalidArgument` that names it."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidArgument(f"cannot read the configuration {path}: {error.strerror}") from error
    except ValueError as error:
        raise InvalidArgument(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise InvalidArgument(f"{path}: a table of settings is wanted")
    return values


def build(values: Mapping[str, Any], source: str) -> AgentConfig:
    """Raises `InvalidArgument` for an unknown, missing or wrong setting, naming it."""
    known = {item.name for item in dataclasses.fields(AgentConfig)}
    for name in values:
        if name not in known:
            closest = closest_match(name, known)
            hint = f"; did you mean `{closest}`?" if closest else ""
            raise InvalidArgument(f"{source}: there is no setting `{name}`{hint} (allowed: {', '.join(sorted(known))})")
    for name in ("cluster", "ray_address", "etcd"):
        if not values.get(name):
            raise InvalidArgument(f"{source}: the setting `{name}` is missing")
    if not is_name(str(values["cluster"])):
        raise InvalidArgument(f"{source}: {values['cluster']!r} is no name for a cluster: {NAME_RULE}")
    if not is_name(str(values.get("mesh", DEFAULT_MESH))):
        raise InvalidArgument(f"{source}: {values['mesh']!r} is no name for a mesh: {NAME_RULE}")
    try:
        etcd = dict(values["etcd"])
        etcd["endpoints"] = tuple(str(endpoint) for endpoint in etcd["endpoints"])
        etcd["tls"] = TlsConfig(**etcd["tls"]) if etcd.get("tls") else None
        tls = TlsConfig(**values["serving_tls"]) if values.get("serving_tls") else None
        return AgentConfig(**{**values, "etcd": EtcdConfig(**etcd), "serving_tls": tls})
    except (TypeError, ValueError, KeyError) as error:
        raise InvalidArgument(f"{source}: {error}") from error
