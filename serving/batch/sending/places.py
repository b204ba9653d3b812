"""Who may be asked for a row: replicas that discovery knows, or an address that somebody gave."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, TypeAlias
from urllib.parse import urlsplit

from serving._proto import records_pb2 as pb
from serving.batch.rows.request import RowRequest
from serving.config import EtcdConfig, TlsConfig
from serving.errors import InvalidArgument, NotFound
from serving.gateway.catalog import Catalog, ModelKey, speaks_openai
from serving.gateway.follower import CatalogFollower
from serving.gateway.splits import Splits, no_value
from serving.routing import NO_SIDES, Place, Sides
from serving.store.client import EtcdClient
from serving.store.keys import AppKey
from serving.timeouts import wait_for
from serving.types import ENDPOINT_READY, PROTOCOL_KSERVE_GRPC, ROLE_DIRECT

_LOG: Final = logging.getLogger(__name__)
_MOST_AWAITED: Final = 1024
_MOST_LANES: Final = 256  # models at fixed addresses that are kept apart: rows may name anything
LaneKey: TypeAlias = Hashable  # rows of one lane may go to the same endpoints


@dataclass(frozen=True, slots=True)
class Discovered:
    """The models of a mesh, wherever they run. A row's own `model` names one of them, else `model` does.

    `application` and `deployment` narrow it down ("": any). `namespaces` empty: all. `tls` is shown to replicas that
    expect TLS.
    """

    etcd: EtcdConfig
    model: str = ""
    application: str = ""
    deployment: str = ""
    namespaces: tuple[str, ...] = ()
    tls: TlsConfig | None = None


@dataclass(frozen=True, slots=True)
class Fixed:
    """Gateways, proxies or replicas at known addresses, such as `https://gateway:8443`. They know the models."""

    urls: tuple[str, ...]
    api_key: str = field(default="", repr=False)
    model: str = ""
    tls: TlsConfig | None = None

    def __post_init__(self) -> None:
        for url in self.urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
                raise InvalidArgument(f"url: {url!r}: `http` or `https`, a host and a port are wanted, and no path")
        if not self.urls:
            raise InvalidArgument("urls: at least one address is wanted")


Target: TypeAlias = "Discovered | Fixed"


@dataclass(frozen=True, slots=True)
class Spot:
    """An endpoint that rows may be sent to. `key` names it, also when it comes again elsewhere. Rows of one key share
    a window, and rest together when one of them is refused."""

    key: str
    url: str
    endpoint: pb.Endpoint | None = None

    @property
    def at_once(self) -> int:
        """How many requests its engine computes together; 0: it does not say."""
        return self.endpoint.load.computed_at_once if self.endpoint is not None else 0


class Places(Protocol):
    """Follows where rows may go. Belongs to one event loop."""

    async def start(self, on_change: Callable[[], None]) -> None:
        """`on_change` is called when answers of `spots` may have changed."""

    async def lane(self, request: RowRequest) -> tuple[LaneKey, RowRequest]:
        """Where the row waits, and the row as endpoints there want it. Raises `NotFound`, `InvalidArgument`."""

    def knows(self, request: RowRequest) -> bool:
        """False: `lane` may wait for its model."""

    def spots(self, lane: LaneKey) -> Sequence[Spot]:
        """Those that take new rows of it."""

    def everywhere(self) -> Sequence[Spot]:
        """Those of all lanes."""

    def refused(self, spot: Spot) -> None:
        """Nobody listens there."""

    async def close(self) -> None: ...


class FixedPlaces:
    """Behind one address there may be many models, each with room of its own: so each is a lane, with windows of its
    own. What refuses one model says nothing of another."""

    def __init__(self, target: Fixed) -> None:
        self._urls = tuple(url.rstrip("/") for url in target.urls)
        self._model = target.model
        self._spots: dict[str, tuple[Spot, ...]] = {}  # by lane

    async def start(self, on_change: Callable[[], None]) -> None:
        on_change()

    async def lane(self, request: RowRequest) -> tuple[LaneKey, RowRequest]:
        model = request.model or self._model
        lane = model if model in self._spots or len(self._spots) < _MOST_LANES else ""
        if lane not in self._spots:
            self._spots[lane] = self._spots_of(lane)
        return lane, with_model(request, model)

    def knows(self, _request: RowRequest) -> bool:
        return True

    def spots(self, lane: LaneKey) -> Sequence[Spot]:
        assert isinstance(lane, str)
        return self._spots.get(lane) or self._spots_of(lane)

    def everywhere(self) -> Sequence[Spot]:
        return [spot for spots in self._spots.values() for spot in spots]

    def _spots_of(self, lane: str) -> tuple[Spot, ...]:
        return tuple(Spot(f"{url} {lane}" if lane else url, url) for url in self._urls)

    def refused(self, spot: Spot) -> None:
        """It may come back: nobody else can say where it is."""

    async def close(self) -> None:
        """Nothing was opened."""


@dataclass(frozen=True, slots=True)
class _Lane:
    model: ModelKey
    sides: Sides = NO_SIDES


class DiscoveredPlaces:
    """`protocol` says which replicas."""

    def __init__(self, target: Discovered, protocol: str, *, unknown_s: float) -> None:
        """A model that nobody has offered is waited for `unknown_s`: its replicas may be about to come. One that was
        offered has a lane, whether or not anybody offers it now."""
        self._target = target
        self._unknown_s = unknown_s
        self._usable = speaks_openai if protocol != PROTOCOL_KSERVE_GRPC else speaks_kserve_grpc
        self._client = EtcdClient(target.etcd)
        self._follower = CatalogFollower(self._client, target.namespaces, self._on_catalog)
        self._follower.listen(self._on_endpoints)
        self._splits = Splits(self._client, self._changed)
        self._catalog = Catalog()
        self._awaited: dict[str, float] = {}  # models that nobody offers, and until when each may come
        self._offered: dict[str, ModelKey] = {}  # by the names that rows have for them
        self._on_change: Callable[[], None] = lambda: None

    async def start(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        await self._follower.start()

    async def lane(self, request: RowRequest) -> tuple[LaneKey, RowRequest]:
        name = request.model or self._target.model
        if not name:
            raise InvalidArgument("model: a row must name its model, or the job one for all rows")
        key = await self._key(name)
        chosen = await self._splits.choose(key, no_value, "", None)
        return _Lane(key, chosen.sides), with_model(request, key.model)

    def knows(self, request: RowRequest) -> bool:
        name = request.model or self._target.model
        return not name or name in self._offered or self._catalog.has(name)

    async def _key(self, name: str) -> ModelKey:
        while True:
            try:
                found = self._catalog.find(name).key
            except NotFound:
                before = self._offered.get(name)
                if before is not None:
                    return before
                until = self._awaited.get(name)
                if until is None:
                    if len(self._awaited) >= _MOST_AWAITED:
                        raise
                    until = self._awaited[name] = time.monotonic() + self._unknown_s
                left = until - time.monotonic()
                if left <= 0:
                    raise
                try:
                    await wait_for(self._follower.wait_change(), left)
                except asyncio.TimeoutError:
                    continue
            else:
                self._awaited.pop(name, None)
                self._offered[name] = found
                return found

    def spots(self, lane: LaneKey) -> Sequence[Spot]:
        assert isinstance(lane, _Lane)
        offer = self._catalog.get(lane.model)
        if offer is None:
            return ()
        ready = [one for one in offer.endpoints if one.state == ENDPOINT_READY]
        if lane.sides:
            ready = self._on_side(lane, ready)
        return [_spot(one) for one in ready]

    def _on_side(self, lane: _Lane, ready: list[pb.Endpoint]) -> list[pb.Endpoint]:
        """Spare ones where its side has none."""
        traffic = self._splits.now(AppKey(lane.model.namespace, lane.model.application))
        placed = [(traffic.place(lane.sides, one), one) for one in ready]
        best = min((place for place, _ in placed), default=Place.NEVER)
        return [one for place, one in placed if place is best and place is not Place.NEVER]

    def everywhere(self) -> Sequence[Spot]:
        ready = (one for offer in self._catalog.offers() for one in offer.endpoints if one.state == ENDPOINT_READY)
        return tuple({spot.key: spot for spot in map(_spot, ready)}.values())

    def refused(self, spot: Spot) -> None:
        if spot.endpoint is not None:
            self._follower.refused(spot.endpoint)

    async def close(self) -> None:
        await self._follower.close()
        await self._splits.close()
        await self._client.close()

    def _on_endpoints(self, endpoints: Sequence[pb.Endpoint]) -> None:
        target = self._target
        wanted = [
            one
            for one in endpoints
            if (not target.application or one.application == target.application)
            and (not target.deployment or one.deployment == target.deployment)
        ]
        self._catalog = Catalog(wanted, target.namespaces, self._usable)

    def _on_catalog(self, _all: Catalog) -> None:
        keys = (*(offer.key for offer in self._catalog.offers()), *self._offered.values())
        apps = {AppKey(key.namespace, key.application) for key in keys}
        self._splits.retain(apps)
        self._splits.follow(apps)
        self._changed()

    def _changed(self) -> None:
        self._on_change()


def speaks_kserve_grpc(endpoint: pb.Endpoint) -> bool:
    return endpoint.protocol == PROTOCOL_KSERVE_GRPC and endpoint.role == ROLE_DIRECT


def with_model(request: RowRequest, model: str) -> RowRequest:
    """As the endpoint knows it."""
    if not model or request.model == model:
        return request
    if isinstance(request.body, dict):
        return replace(request, body={**request.body, "model": model}, model=model)
    return replace(request, model=model)


def _spot(endpoint: pb.Endpoint) -> Spot:
    scheme = "https" if endpoint.tls else "http"
    key = f"{endpoint.namespace}/{endpoint.application}/{endpoint.id}@{endpoint.address}"
    return Spot(key, f"{scheme}://{endpoint.address}", endpoint)
