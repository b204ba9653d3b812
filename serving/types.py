"""Words shared by every package: names, roles, protocols. No I/O."""

from __future__ import annotations

import re
from typing import Final

NAME_PATTERN: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
NAME_RULE: Final = "lower-case letters, digits and dashes, at most 63, no dash at either end"

PROTOCOL_KSERVE_GRPC: Final = "kserve-grpc"
PROTOCOL_OPENAI_HTTP: Final = "openai-http"
PROTOCOL_BROKER_GRPC: Final = "broker-grpc"
PROTOCOL_HTTP: Final = "http"  # of an application's own
PROTOCOL_SEMANTIC_CACHE_HTTP: Final = "semantic-cache-http"  # serving/cache/app.py
PROTOCOL_BATCH_RUNNER: Final = "batch-runner"  # answers gRPC's health service, and takes its work from etcd
PROTOCOL_SERVE_GRPC: Final = "serve-grpc"  # of an application's own, behind Ray Serve's gRPC proxy

ROLE_DIRECT: Final = "direct"
ROLE_PROXY: Final = "proxy"
ROLE_BROKER: Final = "broker"
ROLE_RUNNER: Final = "runner"
ROLE_GATEWAY: Final = "gateway"

DISPATCH_PUSH: Final = "push"  # of `DeploymentSpec.dispatch`: proxies send a request to a replica at once
DISPATCH_PULL: Final = "pull"  # proxies bring it to the deployment's broker, and wait there
DISPATCHES: Final = (DISPATCH_PUSH, DISPATCH_PULL)
PROXY_GRPC: Final = "grpc"  # of `ProxyDeployment.protocol`
PROXY_HTTP: Final = "http"

ENDPOINT_READY: Final = "ready"
ENDPOINT_DRAINING: Final = "draining"

DEFAULT_NAMESPACE: Final = "default"
DEFAULT_MESH: Final = "mesh"


def is_name(text: str) -> bool:
    """True for a valid name of a namespace, application, deployment, cluster or endpoint."""
    return NAME_PATTERN.fullmatch(text) is not None


def split_model_name(full: str) -> tuple[str, str, str] | None:
    """`namespace/application/model` in its three parts, of which the last may hold slashes; None for anything else."""
    parts = full.split("/", 2)
    if len(parts) != 3 or not (is_name(parts[0]) and is_name(parts[1]) and parts[2]):
        return None
    return parts[0], parts[1], parts[2]
