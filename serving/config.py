"""Configuration shared by all processes: frozen, units in names. The only module that reads the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """PEM files. `ca_file` checks the peer; `cert_file` and `key_file` are what we present."""

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""


@dataclass(frozen=True, slots=True)
class EtcdConfig:
    """How to reach etcd. `endpoints` are `host:port`; with `tls` absent the connection is plaintext.

    The password is read from `password_file` when it is needed, so that a rotated password is picked up and none
    stands on a command line.
    """

    endpoints: tuple[str, ...]
    tls: TlsConfig | None = None
    user: str = ""
    password_file: str = ""
    request_timeout_s: float = 2.0
    max_attempts: int = 6


def default_mesh_dir() -> Path:
    """The folder of the local mesh: `$MESH_DIR`, else `~/.mesh`."""
    return Path(os.environ.get("MESH_DIR", "") or Path.home() / ".mesh")


def mesh_config_file() -> Path | None:
    """The `mesh.yaml` that `$MESH_CONFIG` names; None when it is not set."""
    path = os.environ.get("MESH_CONFIG", "")
    return Path(path) if path else None


def etcd_binary() -> str:
    """The etcd program that a local mesh is to start: `$MESH_ETCD_BINARY`; empty: look for one."""
    return os.environ.get("MESH_ETCD_BINARY", "")
