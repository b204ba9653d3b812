"""What is in a mesh's etcd now, read past every keeper, cache and view."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from serving.config import EtcdConfig
from serving.store import EtcdClient
from serving.store.types import KeyValue


def stored_keys(etcd: EtcdConfig, prefix: str) -> dict[str, bytes]:
    """The records under a prefix. Raises `StoreUnavailable` while etcd does not answer."""
    return {kv.key: kv.value for kv in _stored(etcd, prefix)}


def stored_leases(etcd: EtcdConfig, prefix: str) -> dict[str, int]:
    """The leases of the records under a prefix, 0 for none. Raises `StoreUnavailable` while etcd does not answer."""
    return {kv.key: kv.lease for kv in _stored(etcd, prefix)}


def _stored(etcd: EtcdConfig, prefix: str) -> Sequence[KeyValue]:
    async def read() -> Sequence[KeyValue]:
        client = EtcdClient(etcd)
        try:
            return (await client.get_prefix(prefix)).kvs
        finally:
            await client.close()

    return asyncio.run(read())
