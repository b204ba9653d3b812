"""The API keys as a gateway or keeper knows them: followed in etcd, kept while it is away."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from serving._proto import records_pb2 as pb
from serving.errors import DataLoss, StoreUnavailable
from serving.store import keys
from serving.store.cache import CacheUpdate, PrefixCache
from serving.store.client import EtcdClient
from serving.store.records import decode
from serving.store.types import KeyValue

_LOG: Final = logging.getLogger(__name__)
_FIRST_VIEW_S: Final = 5.0
_FOR_EVER_S: Final = 10 * 365 * 86_400.0  # a store that lost a key is no order to refuse its holder
Listener = Callable[[frozenset[str]], None]


def prefer_later(remembered: KeyValue, found: KeyValue) -> KeyValue:
    """Of two records of one key the later version: an older store does not bring back what was taken away."""
    return remembered if version_of(remembered) > version_of(found) else found


def version_of(entry: KeyValue) -> int:
    """0 for a damaged record."""
    try:
        return int(decode(pb.ApiKey, entry.value).version)
    except DataLoss:
        return 0


class KeyDirectory:
    """Follows the keys from `start` to `close`. Belongs to one event loop."""

    def __init__(self, client: EtcdClient) -> None:
        self.cache = PrefixCache(client, keys.API_KEYS, grace_s=_FOR_EVER_S, prefer=prefer_later)
        self._known: dict[str, pb.ApiKey] = {}
        self._listeners: list[Listener] = []
        self.cache.listen(self._on_update)

    async def start(self) -> None:
        """Returns with the first picture, or after some seconds without etcd: following goes on."""
        await self.cache.start()
        try:
            await self.cache.wait_synced(_FIRST_VIEW_S)
        except StoreUnavailable as error:
            _LOG.warning("the API keys are not known yet", extra={"error": error.message})

    async def wait_synced(self) -> None:
        """Returns with the first picture, however long etcd is away. Raises `FailedPrecondition` when it is closed."""
        await self.cache.wait_synced(None)

    async def close(self) -> None:
        await self.cache.close()

    def listen(self, listener: Listener) -> None:
        """Calls it with the ids of changed keys, on the loop."""
        self._listeners.append(listener)

    @property
    def synced(self) -> bool:
        """False until the first picture: nobody is known because nothing is."""
        return self.cache.synced

    def get(self, key_id: str) -> pb.ApiKey | None:
        """None also for one that was deleted."""
        found = self._known.get(key_id)
        return None if found is None or found.HasField("deleted_at") else found

    def is_deleted(self, key_id: str) -> bool:
        """True only where its tombstone says so: that a key is not there proves nothing."""
        found = self._known.get(key_id)
        return found is not None and found.HasField("deleted_at")

    def all(self) -> tuple[pb.ApiKey, ...]:
        """Tombstones included, by id."""
        return tuple(self._known[key_id] for key_id in sorted(self._known))

    def _on_update(self, update: CacheUpdate) -> None:
        changed = frozenset(key.removeprefix(keys.API_KEYS) for key in update.keys)
        for key_id in changed:
            entry = self.cache.get(keys.api_key(key_id))
            if entry is None:
                self._known.pop(key_id, None)
                continue
            try:
                self._known[key_id] = decode(pb.ApiKey, entry.value)
            except DataLoss as error:  # the last good record stays
                _LOG.error("a key's record is damaged", extra={"key_id": key_id, "error": error.message})
        for listener in self._listeners if changed else ():
            listener(changed)
