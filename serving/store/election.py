"""etcd's election recipe: everyone creates a key under a prefix, the oldest key leads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from serving.config import EtcdConfig
from serving.errors import MeshError, NotFound, PermissionDenied, StoreUnavailable, Unauthenticated
from serving.store.calls import backoff_s
from serving.store.client import EtcdClient
from serving.store.lease import Lease
from serving.store.types import Changes, Compare, KeyValue, Resync
from serving.store.waiting import wait_first

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Leadership:
    """Held until `lost`. Every write of a leader carries `fence`: it fails once another one may lead."""

    key: str
    create_revision: int
    lost: asyncio.Event
    fence: Compare
    held: Callable[[], bool]  # answers at once and from any thread, also while the owner's loop is blocked


def leading(kvs: tuple[KeyValue, ...]) -> KeyValue | None:
    """Of the keys of an election, the one that leads: the oldest that has a lease. Others are no candidates."""
    return min((kv for kv in kvs if kv.lease), key=lambda kv: kv.create_revision, default=None)


class Election:
    """One candidate. `campaign`, then lead until `lost` or `resign`; both may be repeated.

    While it waits its key is visible below the prefix with `value`, so that every candidate can be found there.
    """

    def __init__(self, client: EtcdClient, config: EtcdConfig, prefix: str, value: bytes, *, ttl_s: int) -> None:
        """`prefix` ends with a slash; the candidate's key is `<prefix><lease in hex>`."""
        self._client = client
        self._config = config
        self._prefix = prefix
        self._value = value
        self._ttl_s = ttl_s
        self._lease: Lease | None = None
        self._watching_lease: asyncio.Task[None] | None = None

    @property
    def key(self) -> str:
        """The candidate's key; empty while it has none."""
        return f"{self._prefix}{self._lease.id:x}" if self._lease is not None else ""

    async def campaign(self) -> Leadership:
        """Returns when elected. Waits through any trouble of etcd; raises only what is configuration.

        Those are `PermissionDenied` and `Unauthenticated`; and any error when the client is closed meanwhile. Who loses
        the lease while waiting takes a new one.
        """
        failures = 0
        while True:
            await self._drop()
            try:
                return await self._once()
            except (PermissionDenied, Unauthenticated, asyncio.CancelledError):
                await self._drop()
                raise
            except MeshError as error:
                if self._client.closed:
                    await self._drop()
                    raise
                _LOG.info("election goes on", extra={"election": self._prefix, "error": error.message})
            failures += 1
            await asyncio.sleep(backoff_s(failures))

    async def _once(self) -> Leadership:
        lease = Lease(self._config, ttl_s=self._ttl_s)
        await lease.start()
        self._lease = lease
        key = self.key
        await self._client.put_if(key, self._value, mod_revision=0, lease=lease.id)
        own = await self._client.get(key)
        if own is None:
            raise NotFound(f"{key} is gone: its lease has run out")
        if await wait_first(lease.lost.wait(), self._until_oldest(key, own.create_revision)) == 0:
            raise StoreUnavailable(f"the lease of {key} was lost while it waited")
        return self._lead(lease, key, own.create_revision)

    async def _until_oldest(self, key: str, create_revision: int) -> None:
        """Returns when no older candidate is left. Raises `NotFound` when our own key is gone."""
        candidates: dict[str, KeyValue] = {}
        async with aclosing(self._client.watch(self._prefix)) as events:
            async for event in events:
                if isinstance(event, Resync):
                    candidates = {kv.key: kv for kv in event.snapshot.kvs}
                elif isinstance(event, Changes):
                    candidates.update({kv.key: kv for kv in event.puts})
                    for gone in event.deletes:
                        candidates.pop(gone, None)
                else:
                    continue
                own = candidates.get(key)
                if own is None or own.create_revision != create_revision:
                    raise NotFound(f"{key} is gone: the store was replaced or somebody removed it")
                if leading(tuple(candidates.values())) == own:
                    return
        raise StoreUnavailable(f"the watch of {self._prefix} ended")

    def _lead(self, lease: Lease, key: str, create_revision: int) -> Leadership:
        lost = asyncio.Event()
        self._watching_lease = asyncio.ensure_future(self._watch_own_key(lease, key, create_revision, lost))
        fence = Compare.exists(key)  # its name is the lease's: nobody else's can be meant
        return Leadership(key, create_revision, lost, fence, lease.held)

    async def _watch_own_key(self, lease: Lease, key: str, create_revision: int, lost: asyncio.Event) -> None:
        """Sets `lost` when the lease is over or the key is gone, also by a store that was replaced."""
        try:
            await wait_first(lease.lost.wait(), self._until_key_gone(key, create_revision))
        except MeshError as error:
            _LOG.error("leadership cannot be watched", extra={"election": self._prefix, "error": error.message})
        finally:
            lost.set()

    async def _until_key_gone(self, key: str, create_revision: int) -> None:
        async with aclosing(self._client.watch(key)) as events:
            async for event in events:
                if isinstance(event, Resync):
                    found = {kv.key: kv.create_revision for kv in event.snapshot.kvs}
                    if found.get(key) != create_revision:
                        return
                elif isinstance(event, Changes) and (
                    key in event.deletes
                    or any(kv.key == key and kv.create_revision != create_revision for kv in event.puts)
                ):
                    return

    async def update(self, value: bytes) -> None:
        """Changes the record that others see. Raises `Conflict` when the candidate's key is gone."""
        self._value = value
        if self._lease is not None:
            own = await self._client.get(self.key)
            await self._client.put_if(
                self.key, value, mod_revision=own.mod_revision if own else -1, lease=self._lease.id
            )

    async def resign(self) -> None:
        """Gives leadership or candidacy up at once; `lost` is set. May be repeated."""
        await self._drop()

    async def _drop(self) -> None:
        lease, self._lease = self._lease, None
        watching, self._watching_lease = self._watching_lease, None
        try:
            if lease is not None:
                await lease.revoke()
        finally:
            if watching is not None:
                watching.cancel()
                await asyncio.wait({watching})  # not the task itself: a cancellation of ours would look like its own
                if not watching.cancelled():
                    watching.result()
