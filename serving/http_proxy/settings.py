"""What an HTTP proxy reads from its `ReplicaConfig`, and the record that it registers. Pure."""

from __future__ import annotations

from typing import Final

from serving._proto import records_pb2 as pb
from serving.gateway.config import GatewayConfig
from serving.python_deployment import settings as common
from serving.store.keys import AppKey
from serving.types import PROTOCOL_OPENAI_HTTP, ROLE_PROXY

_HOLD_S: Final = 30.0  # as of gRPC proxies
_BODY_BYTES: Final = 8 << 20  # what replicas of language models take


def app_key(config: pb.ReplicaConfig) -> AppKey:
    return AppKey(config.namespace, config.application)


def gateway_config(config: pb.ReplicaConfig) -> GatewayConfig:
    """Replicas of its application are shown what the proxy itself shows clients."""
    return GatewayConfig(
        etcd=common.etcd_config(config.etcd),
        listen=common.joined(common.listen_host(config), config.listen_port),
        namespaces=(config.namespace,),
        endpoint_tls=common.serving_tls(config),
        hold_s=config.proxy.hold_s or _HOLD_S,
        max_body_bytes=config.proxy.max_message_bytes or _BODY_BYTES,
        require_keys=config.require_keys if config.HasField("require_keys") else None,
    )


def endpoint(config: pb.ReplicaConfig, report: pb.ReplicaReport, node: str) -> pb.Endpoint:
    """The record of a ready proxy. It names no models: each change of any replica would rewrite it."""
    record = common.endpoint(config, report, pb.ModelRecord(), node, protocol=PROTOCOL_OPENAI_HTTP)
    record.role = ROLE_PROXY
    del record.models[:]
    return record
