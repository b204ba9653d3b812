"""Where Serve's proxies take requests. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from serving.serve_deployment.verdict import EntryPoint
from serving.types import PROTOCOL_HTTP, PROTOCOL_SERVE_GRPC

ANY_HOST: Final = ("0.0.0.0", "::")
_HEALTHY: Final = "HEALTHY"


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """With what the cluster's Serve instance was started. `http_host` empty: it has no HTTP proxy."""

    http_host: str
    http_port: int
    http_tls: bool = False
    grpc_port: int = 0
    grpc_functions: tuple[str, ...] = ()


def missing_functions(wanted: Sequence[str], options: ServeOptions) -> str:
    """Why this Serve instance cannot answer the gRPC methods of an application; empty when it can."""
    missing = [name for name in wanted if name not in options.grpc_functions]
    if not missing:
        return ""
    known = ", ".join(options.grpc_functions) or "none"
    return (
        f"Ray Serve of this cluster runs without the gRPC functions {', '.join(missing)} (it has {known}), and takes "
        "others only when it starts: before they are deployed, start it with all that its applications need "
        "(`serve start --grpc-servicer-functions`)"
    )


def entry_points(
    proxies: Mapping[str, Mapping[str, Any]], options: ServeOptions, own_node: str, wants_grpc: bool
) -> tuple[EntryPoint, ...]:
    """One for each protocol: a healthy proxy's, that of our own node before others. Empty while there is none."""
    healthy = {
        node: proxy
        for node, proxy in proxies.items()
        if str(getattr(proxy["status"], "value", proxy["status"])) == _HEALTHY
    }
    chosen = _chosen(healthy, own_node)
    if not chosen:
        return ()
    address = str(healthy[chosen]["node_ip"])
    found = []
    if options.http_host:
        host = address if options.http_host in ANY_HOST else options.http_host
        found.append(EntryPoint(PROTOCOL_HTTP, host, options.http_port, options.http_tls))
    if wants_grpc:
        found.append(EntryPoint(PROTOCOL_SERVE_GRPC, address, options.grpc_port))  # it listens on every address
    return tuple(found)


def _chosen(nodes: Collection[str], own: str) -> str:
    return own if own in nodes else min(nodes, default="")
