"""The keeper's configuration: frozen, units in names, read from JSON or YAML and from flags."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keeper.own_apps import OwnBatches, check_template
from keeper.quota import Quotas
from serving.config import EtcdConfig, TlsConfig
from serving.settings import build_settings, read_settings


@dataclass(frozen=True, slots=True)
class KeeperConfig:
    """Everything a keeper process is told.

    `listen` is `host:port`, port 0 is any free one; `advertise_host` is what clients are told, the listening host where
    it is empty. With `tls` the service takes TLS only; with `tls.ca_file` clients must show a certificate of that
    authority.
    """

    etcd: EtcdConfig
    id: str = ""
    listen: str = "127.0.0.1:0"
    advertise_host: str = ""
    tls: TlsConfig | None = None
    metrics_listen: str = ""
    log_file: str = ""
    log_level: str = "info"
    election_ttl_s: int = 5
    cluster_grace_s: float = 5.0
    reconnect_grace_s: float = 15.0
    store_loss_grace_s: float = 30.0
    adopt_grace_s: float = 15.0
    stop_grace_s: float = 5.0
    max_watchers: int = 1000
    quotas: Quotas = field(default_factory=Quotas)
    batch_own: OwnBatches = field(default_factory=OwnBatches)


def load(path: Path) -> KeeperConfig:
    """Reads a JSON or YAML file. Raises `InvalidArgument` that names file and field."""
    return from_mapping(read_settings(path), str(path))


def from_mapping(values: Any, source: str) -> KeeperConfig:
    """The configuration from plain values, as a file or flags give them. Raises `InvalidArgument`."""
    config = build_settings(KeeperConfig, values, source)
    check_template(config.batch_own)
    return config
