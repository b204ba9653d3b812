"""How applications share their requests among deployments and revisions: the records of their masters, followed.

Design: docs/design/0013-traffic.md. What an application's record says is kept while etcd is away.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from serving._proto import records_pb2 as pb
from serving.discovery.resolver import TRAFFIC_GRACE_S
from serving.discovery.view import newer_traffic
from serving.errors import DataLoss, FailedPrecondition, StoreUnavailable
from serving.gateway.catalog import ModelKey, Offer
from serving.routing import NO_SIDES, Place, Sides, Traffic
from serving.routing.traffic import Lookup
from serving.store import keys
from serving.store.cache import CacheUpdate, PrefixCache
from serving.store.client import EtcdClient
from serving.store.keys import AppKey
from serving.store.records import decode

_LOG: Final = logging.getLogger(__name__)
_FIRST_S: Final = 5.0
_SAID: Final = ("user", "prompt_cache_key")  # fields of OpenAI's requests that stand for headers
NO_TRAFFIC: Final = Traffic()


@dataclass(frozen=True, slots=True)
class Chosen:
    """The sides of a request for `key` in the splits of its application: each is chosen once, for all attempts."""

    key: ModelKey
    traffic: Traffic = NO_TRAFFIC
    sides: Sides = NO_SIDES

    @property
    def app(self) -> AppKey:
        return AppKey(self.key.namespace, self.key.application)

    def place(self, endpoint: pb.Endpoint) -> Place:
        return self.traffic.place(self.sides, endpoint)

    def narrowed(self, offer: Offer) -> Offer:
        """With the endpoints that will answer: those on the request's sides, or spare ones where there are none.

        What is narrowed so is asked for stored answers.
        """
        if not self.sides or offer.cache is None:
            return offer
        places = [(self.place(endpoint), endpoint) for endpoint in offer.endpoints]
        best = min(place for place, _ in places)
        if best is Place.NEVER:
            return replace(offer, cache=None)  # nobody may answer it, nor may their stored answers
        return replace(offer, endpoints=tuple(endpoint for place, endpoint in places if place is best))


def no_value(_name: str) -> str:
    """Of a request that says nothing."""
    return ""


def lookup_of(headers: Iterable[tuple[bytes, bytes]], body: Mapping[str, Any]) -> Lookup:
    """What splits look at: the first header of a name, else a text of the body's own (`user`, `prompt_cache_key`)."""
    said = {name: value for name in _SAID if isinstance(value := body.get(name), str)}

    def find(name: str) -> str:
        wanted = name.encode("latin-1")
        found = next((value for key, value in headers if key == wanted), None)
        return found.decode("latin-1") if found is not None else said.get(name, "")

    return find


class Splits:
    """Follows the traffic records of applications. Belongs to one event loop."""

    def __init__(self, client: EtcdClient, on_change: Callable[[], None] = lambda: None) -> None:
        """`on_change` is called when requests are shared in another way than before."""
        self._client = client
        self._on_change = on_change
        self._followed: dict[AppKey, _Followed] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def of(self, app: AppKey) -> Traffic:
        """Raises `StoreUnavailable` when it was never read, and cannot be read now."""
        found = self._followed.get(app)
        if found is None or not found.cache.synced:
            self.follow((app,))
            found = self._followed[app]
            try:
                await found.cache.wait_synced(_FIRST_S)
            except FailedPrecondition as error:  # its last replica has left meanwhile
                raise StoreUnavailable(f"{app.namespace}/{app.name} is not served any more") from error
        return found.traffic

    def now(self, app: AppKey) -> Traffic:
        """As far as it was read."""
        found = self._followed.get(app)
        return found.traffic if found is not None else NO_TRAFFIC

    async def choose(self, key: ModelKey, lookup: Lookup, session: str, before: Chosen | None) -> Chosen:
        """`before` is what was chosen for an earlier attempt, or another model. `session` is what keeps a conversation
        on its side where the split has no other key. Raises as `of` does."""
        app = AppKey(key.namespace, key.application)
        found = self._followed.get(app)
        traffic = found.traffic if found is not None and found.cache.synced else await self.of(app)
        if before is not None and before.key != key:
            before = None
        if before is not None and before.traffic is traffic:
            return before
        if not traffic:
            return Chosen(key, traffic)
        known = dict(before.sides) if before is not None else {}
        sides = traffic.sides("", key.model, lookup, random.random, sequence=session)
        return Chosen(key, traffic, tuple((split, known.get(split, side)) for split, side in sides))

    async def wait_synced(self, app: AppKey) -> None:
        """Returns when the record of an application that is followed was read, however long etcd is away."""
        await self._followed[app].cache.wait_synced(None)

    def follow(self, apps: Iterable[AppKey]) -> None:
        """So that their records are known before they are asked for, and when etcd is away then."""
        for app in apps:
            if app not in self._followed:
                self._followed[app] = _Followed(self._client, app, self._on_change)

    def retain(self, apps: Collection[AppKey]) -> None:
        """Follows no others any more."""
        for app in [app for app in self._followed if app not in apps]:
            task = asyncio.ensure_future(self._followed.pop(app).close())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        self.retain(())
        if self._ending:
            await asyncio.wait(self._ending)


class _Followed:
    """The record of one application."""

    def __init__(self, client: EtcdClient, app: AppKey, on_change: Callable[[], None]) -> None:
        self._key = keys.traffic(app)
        self._on_change = on_change
        self._read: bytes | None = None
        self.traffic = NO_TRAFFIC
        self.cache = PrefixCache(client, self._key, grace_s=TRAFFIC_GRACE_S, prefer=newer_traffic)
        self.cache.listen(self._on_update)
        self._starting = asyncio.ensure_future(self.cache.start())

    def _on_update(self, _update: CacheUpdate) -> None:
        found = self.cache.get(self._key)
        value = found.value if found is not None else None
        if value == self._read:
            return
        self._read = value
        try:
            self.traffic = Traffic(decode(pb.TrafficRecord, value).splits) if value is not None else NO_TRAFFIC
        except DataLoss as error:
            _LOG.error("traffic record cannot be read; the last one counts", extra={"error": error.message})
        self._on_change()

    async def close(self) -> None:
        await self._starting
        await self.cache.close()
