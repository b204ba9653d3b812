"""What stands in etcd of an application, as its replicas and its master write it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from google.protobuf import json_format
from proxy_harness import Proxy
from sdk_harness import Replica

from serving._proto import records_pb2 as records
from serving.local.etcd import EtcdCluster
from serving.store import keys
from serving.store.client import EtcdClient
from serving.store.keys import AppKey
from tests.support.waiting import eventually

StartProxy = Callable[..., Proxy]


class Registry:
    """Writes endpoint records as replicas do, of an application that no other test uses."""

    def __init__(self, etcd: EtcdCluster, name: str) -> None:
        self.app = AppKey("default", name)
        self._config = etcd.config()
        self._revision = 0

    async def put(self, replica: Replica, **changes: Any) -> None:
        record = replica.endpoint(application=self.app.name, **changes)
        key = keys.endpoint(self.app, record.role, record.deployment, record.id)
        async with self._client() as client:
            await client.put(key, json_format.MessageToJson(record).encode())

    async def delete(self, replica: Replica, deployment: str = "digits") -> None:
        async with self._client() as client:
            await client.delete(keys.endpoint(self.app, "direct", deployment, replica.name))

    async def split(self, *splits: records.TrafficSplit, **changes: Any) -> records.TrafficRecord:
        """Writes the record as a master does; each has a higher revision."""
        self._revision += 1
        known: dict[str, Any] = {"uid": "u", "generation": 1, "revision": self._revision, "splits": splits}
        record = records.TrafficRecord(namespace=self.app.namespace, name=self.app.name, **(known | changes))
        await self.put_traffic(json_format.MessageToJson(record).encode())
        return record

    async def put_traffic(self, value: bytes) -> None:
        async with self._client() as client:
            await client.put(keys.traffic(self.app), value)

    async def delete_traffic(self) -> None:
        async with self._client() as client:
            await client.delete(keys.traffic(self.app))

    async def proxies(self) -> list[str]:
        """The records of proxies."""
        async with self._client() as client:
            found = await client.get_prefix(keys.endpoints(self.app, "proxy"))
        return [entry.value.decode() for entry in found.kvs]

    def start(self, start_proxy: StartProxy, **changes: Any) -> Proxy:
        etcd = {"endpoints": list(self._config.endpoints)}
        return start_proxy(application=self.app.name, etcd=etcd, **changes)

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[EtcdClient]:
        client = EtcdClient(self._config)
        try:
            yield client
        finally:
            await client.close()


def ready(proxy: Proxy, count: int) -> None:
    eventually(
        lambda: proxy.metric('mesh_proxy_endpoints{state="ready"}') == count, timeout_s=90, what=f"{count} endpoints"
    )
