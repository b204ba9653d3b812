"""A proxy that follows etcd: endpoints come, change and go; etcd goes away and comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from proxy_harness import Proxy, infer, who
from sdk_harness import Replica
from tritonclient.grpc import service_pb2 as pb

from serving.local.etcd import EtcdCluster
from serving.store import keys
from serving.store.client import EtcdClient
from serving.store.keys import AppKey
from tests.support.waiting import eventually

Replicas = Callable[..., list[Replica]]
StartProxy = Callable[..., Proxy]


class Registry:
    """Writes endpoint records as replicas do, of an application that no other test uses."""

    def __init__(self, etcd: EtcdCluster, name: str) -> None:
        self.app = AppKey("default", name)
        self._client_config = etcd.client_config()

    async def put(self, replica: Replica, **changes: Any) -> None:
        record = replica.endpoint(application=self.app.name, **changes)
        key = keys.endpoint(self.app, record.role, record.deployment, record.id)
        async with EtcdClient(self._client_config) as client:
            await client.put(key, json_format.MessageToJson(record).encode())

    async def delete(self, replica: Replica) -> None:
        async with EtcdClient(self._client_config) as client:
            await client.delete(keys.endpoint(self.app, "direct", "digits", replica.name))

    async def proxies(self) -> list[str]:
        async with EtcdClient(self._client_config) as client:
            found = await client.get_prefix(keys.endpoints(self.app, "proxy"))
        return [entry.value.decode() for entry in found.kvs]
