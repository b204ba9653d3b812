"""What an agent tells a master besides its work order. Travels as JSON: it is an argument of the actor's creation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from serving.config import EtcdConfig, TlsConfig
from serving.errors import InvalidArgument
from serving.types import DEFAULT_MESH


@dataclass(frozen=True, slots=True)
class MasterConfig:
    """`python` runs the prepare command on the replicas' nodes; `mesh_dir` and `cache_dir` are folders there.

    `mesh` is the mesh's name, which keeps its actors apart from those of other meshes in the same Ray cluster.
    `advertise_host` is what clients are told, by default `listen_host`, or the Ray node's address where that is every
    address. An empty `mesh_dir` leaves logs to Ray. `serving_tls` is what replicas present to clients, with it health
    checks use TLS too. `require_keys`: clients of HTTP proxies need an API key; None: of those that listen on more than
    loopback.
    """

    cluster: str
    etcd: EtcdConfig
    python: str
    cache_dir: str
    mesh: str = DEFAULT_MESH
    mesh_dir: str = ""
    listen_host: str = "127.0.0.1"
    advertise_host: str = ""
    lease_ttl_s: int = 5
    log_level: str = "info"
    serving_tls: TlsConfig | None = None
    replica_env: Mapping[str, str] = field(default_factory=dict)
    status_heartbeat_s: float = 10.0
    require_keys: bool | None = None

    def log_file(self, *parts: str) -> Path | None:
        """`<mesh_dir>/logs/<parts>`; None where logs are left to Ray."""
        return Path(self.mesh_dir, "logs", *parts) if self.mesh_dir else None

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> MasterConfig:
        """The inverse of `to_json`. Raises `InvalidArgument` on anything else."""
        try:
            data = json.loads(text)
            etcd = data.pop("etcd")
            etcd["tls"] = TlsConfig(**etcd["tls"]) if etcd["tls"] else None
            etcd["endpoints"] = tuple(etcd["endpoints"])
            tls = data.pop("serving_tls")
            return MasterConfig(**data, etcd=EtcdConfig(**etcd), serving_tls=TlsConfig(**tls) if tls else None)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InvalidArgument(f"not a master's configuration: {error!r}") from error
