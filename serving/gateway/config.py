"""A gateway's configuration: frozen, units in names, read from JSON or YAML and from flags."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.config import EtcdConfig, TlsConfig
from serving.gateway.batch.settings import BatchLimits
from serving.settings import build_settings, read_settings


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Everything a gateway process is told.

    With `resume_streams` a stream whose replica dies goes on at another one where the answer is determined (greedy or
    seeded); a request's `x-mesh-resume-stream: true` or `false` wins over it.

    `listen` is `host:port`, port 0 is any free one. `namespaces` are those whose models it offers; empty: all. With
    `tls` it takes TLS only; `endpoint_tls` is what it shows to replicas that expect TLS. A request waits `hold_s` for a
    replica of a model that has none. Larger bodies than `max_body_bytes` are refused (replicas take 8 MiB), and more
    than `max_requests` at a time. A replica that sends nothing for `idle_timeout_s` has failed, as has a semantic cache
    that says nothing for `cache_timeout_s`. Who asks the same as a request that runs waits `cache_follow_s` for its
    answer. When it is ended, `/health` says so for `leave_s` before the first request is refused. What is known of
    prompts in replicas' caches takes `prefix_index_bytes` at most. `require_keys`: whoever asks needs an API key; None:
    where it listens on more than loopback. `batch_store` is the URL of the folder for `/v1/files` and `/v1/batches`,
    which gateways and the runners of batches share; empty: neither is supported. `batch_limits` are its bounds.
    """

    etcd: EtcdConfig
    listen: str = "127.0.0.1:0"
    namespaces: tuple[str, ...] = ()
    tls: TlsConfig | None = None
    endpoint_tls: TlsConfig | None = None
    prefer_labels: dict[str, str] = field(default_factory=dict)
    hold_s: float = 5.0
    connect_timeout_s: float = 2.0
    idle_timeout_s: float = 600.0
    cache_timeout_s: float = 1.0
    cache_follow_s: float = 30.0
    max_body_bytes: int = 8 << 20
    max_requests: int = 4096
    max_attempts: int = 3
    prefix_index_bytes: int = 64 << 20
    resume_streams: bool = False
    require_keys: bool | None = None
    leave_s: float = 1.0
    drain_timeout_s: float = 30.0
    batch_store: str = ""
    batch_limits: BatchLimits = field(default_factory=BatchLimits)
    log_file: str = ""
    log_level: str = "info"

    @property
    def keys_required(self) -> bool:
        """What `require_keys` comes to."""
        if self.require_keys is not None:
            return self.require_keys
        return not is_loopback(self.listen.rpartition(":")[0].removeprefix("[").removesuffix("]"))


def is_loopback(host: str) -> bool:
    """Of an address; of names only `localhost` is known."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def load(path: Path) -> GatewayConfig:
    """Reads a JSON or YAML file. Raises `InvalidArgument` that names file and field."""
    return from_mapping(read_settings(path), str(path))


def from_mapping(values: Any, source: str) -> GatewayConfig:
    """The configuration from plain values, as a file or flags give them. Raises `InvalidArgument`."""
    return build_settings(GatewayConfig, values, source)
