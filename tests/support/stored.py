"""What is in a mesh's etcd now, read past every keeper, cache and view."""

from __future__ import annotations

import asyncio

from serving.config import EtcdConfig
from serving.store import EtcdClient


def stored_keys(etcd: EtcdConfig, prefix: str) -> dict[str, bytes]:
    """The records under a prefix. Raises `StoreUnavailable` while etcd does not answer."""

    async def read() -> dict[str, bytes]:
        client = EtcdClient(etcd)
        try:
            snapshot = await client.get_prefix(prefix)
        finally:
            await client.close()
        return {kv.key: kv.value for kv in snapshot.kvs}

    return asyncio.run(read())
