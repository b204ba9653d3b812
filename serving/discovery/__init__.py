"""Where the endpoints of an application are, and requests to them.

Names are imported when they are first used, so that who only registers need not load what calls.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.discovery.client import InferenceClient
    from serving.discovery.client_config import ClientConfig
    from serving.discovery.registrar import Registrar
    from serving.discovery.resolver import Resolver
    from serving.discovery.view import EndpointView

_HOME = {
    "ClientConfig": "client_config",
    "EndpointView": "view",
    "InferenceClient": "client",
    "Registrar": "registrar",
    "Resolver": "resolver",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


__all__ = ["ClientConfig", "EndpointView", "InferenceClient", "Registrar", "Resolver"]
