"""What an agent process is told: a JSON or YAML file, overridden by flags."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.config import EtcdConfig, TlsConfig
from serving.errors import InvalidArgument
from serving.master.config import MasterConfig
from serving.settings import build_settings
from serving.types import DEFAULT_MESH, NAME_RULE, is_name


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """`mesh` is the mesh's name: agents of different meshes must not have the same in one Ray cluster.

    `mesh_dir` holds logs and the artifact cache; `library` is the C++ actor, by default the built one.
    `ray_token_file` is for clusters with token authentication. `ray_away_s` is how long Ray may not answer before the
    cluster's record is taken back, so that keepers place its applications elsewhere. `require_keys`: clients of HTTP
    proxies of applications need an API key; None: of those that listen on more than loopback.
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
    require_keys: bool | None = None
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
            require_keys=self.require_keys,
        )


def build(values: Mapping[str, Any], source: str) -> AgentConfig:
    """Raises `InvalidArgument` for an unknown, missing or wrong setting, naming it."""
    config = build_settings(AgentConfig, values, source)
    for name in ("cluster", "ray_address"):
        if not getattr(config, name):
            raise InvalidArgument(f"{source}: the setting `{name}` is missing")
    if not is_name(config.cluster):
        raise InvalidArgument(f"{source}: {config.cluster!r} is no name for a cluster: {NAME_RULE}")
    if not is_name(config.mesh):
        raise InvalidArgument(f"{source}: {config.mesh!r} is no name for a mesh: {NAME_RULE}")
    if not config.etcd.endpoints:
        raise InvalidArgument(f"{source}: the setting `etcd.endpoints` is empty")
    return config
