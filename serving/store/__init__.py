"""The only shared truth: etcd, through a thin client of our own. See docs/design/0001-first-mesh.md.

Names are imported when they are first used: pure modules that need only `serving.store.keys` must not pull in gRPC.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.store.cache import CacheUpdate, PrefixCache
    from serving.store.client import EtcdClient
    from serving.store.election import Election, Leadership
    from serving.store.keys import AppKey
    from serving.store.lease import Lease
    from serving.store.types import (
        Changes,
        Compare,
        Disconnected,
        KeyValue,
        Op,
        OpResult,
        OutcomeUnknown,
        Resync,
        Snapshot,
        StoreStatus,
        TxnResult,
        WatchEvent,
    )

_HOME = {
    "CacheUpdate": "cache",
    "PrefixCache": "cache",
    "EtcdClient": "client",
    "Election": "election",
    "Leadership": "election",
    "AppKey": "keys",
    "Lease": "lease",
    "Changes": "types",
    "Compare": "types",
    "Disconnected": "types",
    "KeyValue": "types",
    "Op": "types",
    "OpResult": "types",
    "OutcomeUnknown": "types",
    "Resync": "types",
    "Snapshot": "types",
    "StoreStatus": "types",
    "TxnResult": "types",
    "WatchEvent": "types",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


__all__ = [
    "AppKey",
    "CacheUpdate",
    "Changes",
    "Compare",
    "Disconnected",
    "Election",
    "EtcdClient",
    "KeyValue",
    "Leadership",
    "Lease",
    "Op",
    "OpResult",
    "OutcomeUnknown",
    "PrefixCache",
    "Resync",
    "Snapshot",
    "StoreStatus",
    "TxnResult",
    "WatchEvent",
]
