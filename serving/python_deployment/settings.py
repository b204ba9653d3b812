"""What a Python replica reads from its `ReplicaConfig`, and the record that it registers. Pure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from serving._proto import records_pb2 as pb
from serving.config import EtcdConfig, TlsConfig
from serving.errors import DataLoss, InvalidArgument
from serving.store.records import decode
from serving.types import ENDPOINT_READY, PROTOCOL_KSERVE_GRPC, ROLE_DIRECT

ANY_HOST: Final = ("0.0.0.0", "::")
DEFAULT_DRAIN_S: Final = 30.0
DEFAULT_LEASE_S: Final = 5


def read_config(text: str, kind: str = "python") -> pb.ReplicaConfig:
    """Of a deployment of this kind. Raises `InvalidArgument`."""
    try:
        config = decode(pb.ReplicaConfig, text.encode())
    except DataLoss as error:
        raise InvalidArgument(f"this is no ReplicaConfig: {error.message}") from error
    if not config.HasField(kind):
        raise InvalidArgument(f"the ReplicaConfig has no `{kind}`")
    return config


def read_object(text: str, what: str) -> dict[str, Any]:
    """A JSON object, an empty one for nothing. Raises `InvalidArgument`."""
    try:
        value = json.loads(text) if text else {}
    except ValueError as error:
        raise InvalidArgument(f"{what} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidArgument(f"{what} is no JSON object")
    return value


def etcd_config(connection: pb.EtcdConnection) -> EtcdConfig:
    return EtcdConfig(
        endpoints=tuple(connection.endpoints),
        tls=tls_config(connection.tls) if connection.HasField("tls") else None,
        user=connection.user,
        password_file=connection.password_file,
    )


def tls_config(files: pb.TlsFiles) -> TlsConfig:
    return TlsConfig(ca_file=files.ca, cert_file=files.cert, key_file=files.key)


def serving_tls(config: pb.ReplicaConfig) -> TlsConfig | None:
    return tls_config(config.serving_tls) if config.HasField("serving_tls") else None


def listen_host(config: pb.ReplicaConfig) -> str:
    return config.listen_host or "127.0.0.1"


def advertised_host(config: pb.ReplicaConfig, node_address: str) -> str:
    """What clients are told: where it listens, unless that is every address."""
    host = config.advertise_host or listen_host(config)
    return node_address if host in ANY_HOST and node_address else host


def joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def log_file(config: pb.ReplicaConfig) -> Path | None:
    return Path(config.log_file) if config.log_file else None


def log_keys(config: pb.ReplicaConfig, revision: int) -> dict[str, object]:
    """As C++ replicas have them in every record."""
    return {
        "namespace": config.namespace,
        "application": config.application,
        "deployment": config.deployment,
        "replica": config.id,
        "generation": config.generation,
        "revision": revision,
    }


def endpoint(
    config: pb.ReplicaConfig,
    report: pb.ReplicaReport,
    model: pb.ModelRecord,
    node: str,
    *,
    protocol: str = PROTOCOL_KSERVE_GRPC,
) -> pb.Endpoint:
    """The record of a ready replica at the address of its report."""
    return pb.Endpoint(
        id=config.id,
        address=report.address,
        protocol=protocol,
        role=ROLE_DIRECT,
        namespace=config.namespace,
        application=config.application,
        deployment=config.deployment,
        models=[model],
        cluster=config.cluster,
        node=node,
        labels=dict(config.labels),
        revision=report.revision,
        generation=config.generation,
        state=ENDPOINT_READY,
        tls=config.HasField("serving_tls"),
        pid=report.pid,
        metrics_address=report.metrics_address,
    )
