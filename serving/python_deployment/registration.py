"""A replica's endpoints in discovery, from their first records to their withdrawal."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from prometheus_client import CollectorRegistry, Gauge

from serving._proto import records_pb2 as pb
from serving.discovery import Registrar
from serving.python_deployment import settings

_LOG: Final = logging.getLogger(__name__)


class Registration:
    """Of one endpoint, or one for each protocol. Belongs to the loop that serves; any thread may call `describe`."""

    def __init__(self, config: pb.ReplicaConfig, metrics: CollectorRegistry) -> None:
        self._config = config
        self._registrars: dict[str, Registrar] = {}  # by the ids of endpoints
        registered = Gauge("mesh_replica_registered", "1 while all endpoints are in discovery", registry=metrics)
        registered.set_function(lambda: int(self._registered))

    def describe(self, report: pb.ReplicaReport) -> None:
        """The lease of the first one, and whether all are in discovery."""
        registrars = list(self._registrars.values())
        if registrars:
            report.lease = registrars[0].lease
            report.registered = self._registered

    @property
    def _registered(self) -> bool:
        registrars = list(self._registrars.values())
        return bool(registrars) and all(one.registered for one in registrars)

    async def put(self, *records: pb.Endpoint) -> None:
        """The first time begins to register, then the records change. Returns before anything is written."""
        config = self._config
        if not config.etcd.endpoints:
            _LOG.warning("no etcd endpoint is configured: the replica is not in discovery")
            return
        ttl_s = config.lease_ttl_s or settings.DEFAULT_LEASE_S
        for record in records:
            known = self._registrars.get(record.id)
            if known is not None:
                await known.update(record)
                continue
            registrar = Registrar(settings.etcd_config(config.etcd), record, ttl_s=ttl_s)
            await registrar.start()
            self._registrars[record.id] = registrar

    async def withdraw(self) -> bool:
        """Leaves discovery; True when it was there, so that somebody may still be on the way."""
        listed = any(one.registered for one in self._registrars.values())
        await asyncio.gather(*(one.withdraw() for one in self._registrars.values()))
        return listed

    async def close(self) -> None:
        await asyncio.gather(*(one.close() for one in self._registrars.values()))
