"""A replica's endpoint in discovery, from its first record to its withdrawal."""

from __future__ import annotations

import logging
from typing import Final

from prometheus_client import CollectorRegistry, Gauge

from serving._proto import records_pb2 as pb
from serving.discovery import Registrar
from serving.python_deployment import settings

_LOG: Final = logging.getLogger(__name__)


class Registration:
    """Belongs to the loop that serves; `describe` may be called from any thread."""

    def __init__(self, config: pb.ReplicaConfig, metrics: CollectorRegistry) -> None:
        self._config = config
        self._registrar: Registrar | None = None
        registered = Gauge("mesh_replica_registered", "1 while the endpoint is in discovery", registry=metrics)
        registered.set_function(lambda: int(self._registrar is not None and self._registrar.registered))

    def describe(self, report: pb.ReplicaReport) -> None:
        """Its lease, and whether it is in discovery."""
        registrar = self._registrar
        if registrar is not None:
            report.lease = registrar.lease
            report.registered = registrar.registered

    async def put(self, record: pb.Endpoint) -> None:
        """The first time begins to register, then the record changes. Returns before anything is written."""
        config = self._config
        if not config.etcd.endpoints:
            _LOG.warning("no etcd endpoint is configured: the replica is not in discovery")
            return
        if self._registrar is not None:
            await self._registrar.update(record)
            return
        ttl_s = config.lease_ttl_s or settings.DEFAULT_LEASE_S
        self._registrar = Registrar(settings.etcd_config(config.etcd), record, ttl_s=ttl_s)
        await self._registrar.start()

    async def withdraw(self) -> bool:
        """Leaves discovery; True when it was there, so that somebody may still be on the way."""
        if self._registrar is None:
            return False
        listed = self._registrar.registered
        await self._registrar.withdraw()
        return listed

    async def close(self) -> None:
        if self._registrar is not None:
            await self._registrar.close()
