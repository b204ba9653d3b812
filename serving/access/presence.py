"""A gateway's own record: that it lives."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from serving._proto import records_pb2 as pb
from serving.config import EtcdConfig
from serving.control import Backoff
from serving.errors import MeshError
from serving.store import keys
from serving.store.client import EtcdClient
from serving.store.lease import Lease
from serving.store.records import encode
from serving.timeouts import cancel_and_wait

_LOG: Final = logging.getLogger(__name__)
TTL_S: Final = 10
_BACKOFF: Final = Backoff(first_s=0.1, limit_s=1.0, jitter=0.5)


class Presence:
    """Keeps the record from `start` to `close`, under a new lease after each loss. Never fails because of etcd."""

    def __init__(self, config: EtcdConfig, client: EtcdClient, record: pb.GatewayRecord) -> None:
        self._config = config
        self._client = client
        self._record = record
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="gateway-presence")

    async def close(self) -> None:
        """The record goes with its lease."""
        if self._task is not None:
            await cancel_and_wait(self._task)

    async def _run(self) -> None:
        failures = 0
        while True:
            lease = Lease(self._config, ttl_s=TTL_S)
            try:
                await lease.start()
                await self._client.put(keys.gateway(self._record.id), encode(self._record), lease=lease.id)
                failures = 0
                await lease.lost.wait()
            except MeshError as error:
                failures += 1
                _LOG.warning("gateway not registered", extra={"gateway": self._record.id, "error": error.message})
                await asyncio.sleep(_BACKOFF.delay_s(failures))
            finally:
                await lease.revoke()
