"""What all gateways have written of their shares, as one of them sees it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from serving._proto import records_pb2 as pb
from serving.access.shares import Peer, Share
from serving.errors import DataLoss
from serving.store import keys
from serving.store.cache import CacheUpdate, PrefixCache
from serving.store.client import EtcdClient
from serving.store.records import decode
from serving.store.types import KeyValue

_LOG: Final = logging.getLogger(__name__)
_GRACE_S: Final = 5.0  # what a replaced store lost is written again by its owners


@dataclass(frozen=True, slots=True)
class Written:
    """One gateway's record of a key, and the revision of the store in which it was written."""

    record: pb.KeyShares
    mod_revision: int


def written(entries: Iterable[KeyValue]) -> dict[str, Written]:
    """By gateway. A damaged record counts as none: its gateway writes it again."""
    found = {}
    for entry in entries:
        parsed = keys.parse_share(entry.key)
        if parsed is None:
            continue
        try:
            found[parsed[1]] = Written(decode(pb.KeyShares, entry.value), entry.mod_revision)
        except DataLoss as error:
            _LOG.error("a share's record is damaged", extra={"store_key": entry.key, "error": error.message})
    return found


def share_of(record: pb.KeyShares, limit: str) -> Share:
    for one in record.shares:
        if one.limit == limit:
            return Share(one.window, one.granted, one.next, one.wanted, one.used, one.largest)
    return Share()


def limit_share(limit: str, share: Share) -> pb.LimitShare:
    return pb.LimitShare(
        limit=limit,
        window=share.window,
        granted=share.granted,
        next=share.next,
        wanted=share.wanted,
        used=share.used,
        largest=share.largest,
    )


def peers_of(found: dict[str, Written], limit: str, living: frozenset[str]) -> list[Peer]:
    return [Peer(name, share_of(one.record, limit), lives=name in living) for name, one in sorted(found.items())]


class ShareView:
    """Follows shares and gateways from `start` to `close`. Belongs to one event loop."""

    def __init__(self, client: EtcdClient, gateway: str, on_change: Callable[[str], None]) -> None:
        """`on_change` gets the id of each API key of which another gateway than `gateway` has written."""
        self._gateway = gateway
        self._on_change = on_change
        self._shares = PrefixCache(client, keys.SHARES, grace_s=_GRACE_S)
        self._gateways = PrefixCache(client, keys.GATEWAYS, grace_s=_GRACE_S)
        self._found: dict[str, dict[str, Written]] = {}
        self._shares.listen(self._on_update)

    async def start(self) -> None:
        await self._shares.start()
        await self._gateways.start()

    async def close(self) -> None:
        await self._shares.close()
        await self._gateways.close()

    @property
    def stale(self) -> bool:
        return self._shares.stale

    @property
    def living(self) -> frozenset[str]:
        """This gateway included."""
        return frozenset(key.removeprefix(keys.GATEWAYS) for key in self._gateways.entries()) | {self._gateway}

    def of(self, key_id: str) -> dict[str, Written]:
        return dict(self._found.get(key_id, {}))

    def gone(self) -> dict[str, list[str]]:
        """Gateways that have records and do not live, with the keys that these are of."""
        living = self.living
        absent: dict[str, list[str]] = {}
        for key_id, found in self._found.items():
            for name in found.keys() - living:
                absent.setdefault(name, []).append(key_id)
        return absent

    def _on_update(self, update: CacheUpdate) -> None:
        for key in update.keys:
            parsed = keys.parse_share(key)
            if parsed is None:
                continue
            key_id, gateway = parsed
            entry = self._shares.get(key)
            of_key = self._found.setdefault(key_id, {})
            of_key.pop(gateway, None)
            if entry is not None:
                of_key.update(written((entry,)))
            if not of_key:
                del self._found[key_id]
            if gateway != self._gateway or entry is None:
                self._on_change(key_id)
