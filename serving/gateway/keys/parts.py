"""What a gateway that asks for keys is made of: the keys it knows, its shares, and the gate."""

from __future__ import annotations

import os
import re
import secrets
import socket
from typing import Final

from prometheus_client import CollectorRegistry

from serving._proto import records_pb2 as pb
from serving.access.directory import KeyDirectory
from serving.access.ledger import Ledger
from serving.config import EtcdConfig
from serving.gateway.keys.gate import Gate
from serving.observe.metrics import ControllerCollector
from serving.store.client import EtcdClient

_NOT_IN_NAMES: Final = re.compile(r"[^a-z0-9]+")


class GatewayKeys:
    """`start`, then `close`. Belongs to one event loop. `store` is its owner's to close."""

    def __init__(self, config: EtcdConfig, store: EtcdClient, registry: CollectorRegistry) -> None:
        host = _NOT_IN_NAMES.sub("-", socket.gethostname().lower()).strip("-")[:32] or "gateway"
        self._record = pb.GatewayRecord(id=f"{host}-{os.getpid()}-{secrets.token_hex(3)}", pid=os.getpid())
        self._directory = KeyDirectory(store)
        self._ledger = Ledger(config, store, self._record, self._directory)
        self._directory.listen(self._ledger.keys_changed)
        self.gate = Gate(self._directory, self._ledger, registry)
        ControllerCollector(registry).add(self._ledger.controller)

    async def start(self, address: str) -> None:
        """`address` is the gateway's own. Returns when the keys are known, or after some seconds without etcd."""
        self._record.address = address
        await self._ledger.start()
        await self._directory.start()

    async def wait_synced(self) -> None:
        """Returns when the keys are known, however long etcd is away."""
        await self._directory.wait_synced()

    async def close(self) -> None:
        """After the last request."""
        await self._ledger.close()
        await self._directory.close()
