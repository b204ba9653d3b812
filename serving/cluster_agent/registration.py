"""The cluster's leased record: claimed by one agent, renewed on a thread of its own, written by compare-and-set."""

from __future__ import annotations

import logging
from typing import Final

from serving._proto import records_pb2 as pb
from serving.cluster_agent.identity import is_dead
from serving.config import EtcdConfig
from serving.control import Clock
from serving.errors import AlreadyExists, Conflict, DataLoss, NotFound
from serving.store import keys
from serving.store.client import EtcdClient
from serving.store.lease import Lease
from serving.store.records import decode, encode
from serving.store.types import KeyValue

_LOG: Final = logging.getLogger(__name__)
_POLL_S: Final = 0.25
_SLACK_S: Final = 5.0


class Registration:
    """`publish` may be called whenever there is news; a lost lease or a lost store is healed by it."""

    def __init__(
        self, client: EtcdClient, config: EtcdConfig, cluster: str, agent_id: str, *, ttl_s: int, clock: Clock
    ) -> None:
        self._client = client
        self._config = config
        self._cluster = cluster
        self._key = keys.cluster(cluster)
        self._agent_id = agent_id
        self._ttl_s = ttl_s
        self._clock = clock
        self._lease: Lease | None = None
        self._mod_revision: int | None = None  # of our own record; None: not claimed

    async def publish(self, record: pb.ClusterRecord) -> None:
        """Writes the record. Raises `AlreadyExists` when another agent of this name lives, `StoreUnavailable`."""
        if self._mod_revision is None:
            await self._claim()
        lease = await self._held_lease()
        try:
            self._mod_revision = await self._client.put_if(
                self._key, encode(record), mod_revision=self._mod_revision or 0, lease=lease
            )
        except NotFound:  # the lease: the store lost it
            await self._drop_lease()
            raise Conflict(f"the lease of {self._key} is gone") from None
        except Conflict:
            self._mod_revision = None  # somebody else's, or ours of before: the claim finds out
            raise

    async def withdraw(self) -> None:
        """Takes the record back: the lease ends and the record with it. May be repeated."""
        lease = self._lease
        self._mod_revision = None
        if lease is not None:
            await lease.revoke()
            self._lease = None  # only now: whoever is cancelled here and asks again waits again

    async def _claim(self) -> None:
        """Waits until the key is free or ours. A dead predecessor of this machine is not waited for."""
        first = await self._client.get(self._key)
        deadline = self._clock.monotonic() + self._ttl_s + _SLACK_S
        kv = first
        while kv is not None and first is not None:
            other = _agent_of(kv)
            if other == self._agent_id:
                break
            if is_dead(other):
                _LOG.info("the agent before this one is dead; its record is taken over", extra={"before": other})
                if kv.lease:
                    await self._client.revoke(kv.lease)
            elif kv.mod_revision != first.mod_revision or self._clock.monotonic() > deadline:
                raise AlreadyExists(
                    f"cluster {self._cluster!r} has an agent already ({other}): there is one agent for each cluster. "
                    f"End that one first, or give this cluster another name"
                )
            await self._clock.sleep(_POLL_S)
            kv = await self._client.get(self._key)
        self._mod_revision = kv.mod_revision if kv is not None else 0

    async def _held_lease(self) -> int:
        if self._lease is not None and not self._lease.lost.is_set():
            return self._lease.id
        await self._drop_lease()
        lease = Lease(self._config, ttl_s=self._ttl_s)
        await lease.start()
        self._lease = lease
        return lease.id

    async def _drop_lease(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            await lease.abandon()


def _agent_of(kv: KeyValue) -> str:
    try:
        return decode(pb.ClusterRecord, kv.value).agent_id
    except DataLoss:
        return ""
