"""Routes: names at the gateways, and the models that answer for them. Stored, read, and written back when lost.

Design: docs/design/0019-routes.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Final

from serving._proto import records_pb2 as pb
from serving._proto import routes_pb2 as api
from serving.control import Clock
from serving.errors import Conflict, DataLoss, NotFound, ResourceExhausted, SpecError, StoreUnavailable
from serving.problems import problems_error
from serving.spelling import closest_match
from serving.store import Compare, EtcdClient, Op, keys
from serving.store.cache import CacheUpdate, PrefixCache
from serving.store.keys import AppKey
from serving.store.records import decode, encode
from serving.store.route_records import ROUTE_GRACE_S, newer_route, readable_routes
from serving.store.types import KeyValue
from serving.types import ENDPOINT_READY, PROTOCOL_KSERVE_GRPC, PROTOCOL_OPENAI_HTTP, ROLE_DIRECT, split_model_name
from serving.validation.route import name_problems, validate_route

MAX_ROUTES: Final = 1000
MAX_ATTEMPTS: Final = 16
_READ_TOGETHER: Final = 64  # applications in one transaction; etcd takes 128 steps
_RESTORE_RETRY_S: Final = 1.0
_AT_GATEWAYS: Final = frozenset({PROTOCOL_OPENAI_HTTP, PROTOCOL_KSERVE_GRPC})
_log = logging.getLogger("keeper.routes")


class Routes:
    """`run` follows and restores; the other methods are what the service answers. Belongs to one event loop."""

    def __init__(self, client: EtcdClient, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._cache = PrefixCache(client, keys.ROUTES, grace_s=ROUTE_GRACE_S, prefer=newer_route)
        self._replaced = asyncio.Event()
        self._cache.listen(self._on_update)

    async def run(self) -> None:
        """Follows the routes until cancelled. What a replaced store has lost is written again, by whoever is first."""
        await self._cache.start()
        try:
            while True:
                await self._replaced.wait()
                self._replaced.clear()
                while self._cache.carried():
                    try:
                        await self._restore()
                    except StoreUnavailable as error:
                        _log.warning("routes are not written back yet", extra={"error": error.message})
                    await self._clock.sleep(_RESTORE_RETRY_S)
        finally:
            await self._cache.close()

    def _on_update(self, update: CacheUpdate) -> None:
        if update.replaced:
            self._replaced.set()

    async def _restore(self) -> None:
        for key in sorted(self._cache.carried()):
            known = self._cache.get(key)
            if known is None:
                continue
            found = await self._client.get(key)
            if found is not None and newer_route(known, found) is found:
                continue  # somebody has written it meanwhile: the cache will see it
            compare = Compare.mod_revision(key, found.mod_revision if found is not None else 0)
            await self._client.txn((compare,), (Op.put(key, known.value),))
            _log.warning("a route that the store had lost is written back", extra={"store_key": key})

    # ---------------------------------------------------------------------------------------------- what is asked

    async def set(self, request: api.SetRouteRequest) -> api.SetRouteResponse:
        """Stores it unless it is so already. Raises `SpecError`, `Conflict`, and `ResourceExhausted` for too many."""
        wanted = request.route
        validate_route(wanted)
        key = keys.route(wanted.name)
        for _ in range(MAX_ATTEMPTS):
            found = await self._client.get(key)
            known = _read(found)
            _expect(wanted.name, known, request.if_version)
            if known is not None and _same(known, wanted):
                return api.SetRouteResponse(route=await self._view(known), changed=False)
            if found is None and len((await self._client.get_prefix(keys.ROUTES)).kvs) >= MAX_ROUTES:
                raise ResourceExhausted(f"there are {MAX_ROUTES} routes already, which is the most; delete one first")
            made = pb.RouteRecord(name=wanted.name, targets=wanted.targets, fallbacks=wanted.fallbacks)
            made.version = (known.version if known is not None else 0) + 1
            made.author = request.author[:128]
            made.changed.FromMilliseconds(int(self._clock.now() * 1000))
            compare = Compare.mod_revision(key, found.mod_revision if found is not None else 0)
            if (await self._client.txn((compare,), (Op.put(key, encode(made)),))).succeeded:
                return api.SetRouteResponse(route=await self._view(made), changed=True)
        raise _busy(wanted.name)

    async def get(self, name: str) -> tuple[api.RouteView, float]:
        """The route, and for how long that has been stale (0.0: it is not). Raises `NotFound`."""
        found, stale_s = await self._all()
        if name not in found:
            raise _unknown(name, found)
        return (await self._views((found[name],), known=stale_s == 0.0))[0], stale_s

    async def list(self) -> tuple[Sequence[api.RouteView], float]:
        """All of them by name, and for how long that has been stale."""
        found, stale_s = await self._all()
        return await self._views([found[name] for name in sorted(found)], known=stale_s == 0.0), stale_s

    async def delete(self, request: api.DeleteRouteRequest) -> None:
        """Raises `NotFound`, `Conflict`."""
        problems = list(name_problems("name", request.name))
        if problems:
            raise problems_error(problems)
        key = keys.route(request.name)
        for _ in range(MAX_ATTEMPTS):
            found = await self._client.get(key)
            if found is None:
                raise _unknown(request.name, (await self._all())[0])
            _expect(request.name, _read(found), request.if_version)
            compare = Compare.mod_revision(key, found.mod_revision)
            if (await self._client.txn((compare,), (Op.delete(key),))).succeeded:
                return
        raise _busy(request.name)

    async def _all(self) -> tuple[dict[str, pb.RouteRecord], float]:
        """By name; as they were known last while the store is away."""
        if self._cache.synced and self._cache.stale:  # it would not answer before the client gives this keeper up
            return readable_routes(self._cache.entries().values()), max(0.001, self._cache.stale_for_s)
        try:
            snapshot = await self._client.get_prefix(keys.ROUTES)
        except StoreUnavailable:
            if not self._cache.synced:
                raise
            return readable_routes(self._cache.entries().values()), max(0.001, self._cache.stale_for_s)
        return readable_routes(snapshot.kvs), 0.0

    async def _view(self, record: pb.RouteRecord) -> api.RouteView:
        return (await self._views((record,), known=True))[0]

    async def _views(self, records: Iterable[pb.RouteRecord], *, known: bool) -> Sequence[api.RouteView]:
        """With what their models are now; `known` False: the store is away, so that nobody can tell."""
        listed = list(records)
        states = await self._states({model for record in listed for model in _models(record)}) if known else {}
        missing = api.RoutedModel(warning="not known: the store does not answer")
        views = []
        for record in listed:
            view = api.RouteView(record=record)
            for model in _models(record):
                view.models.add().MergeFrom(states.get(model, missing))
                view.models[-1].model = model
            views.append(view)
        return views

    async def _states(self, models: Iterable[str]) -> dict[str, api.RoutedModel]:
        parts = {model: split for model in models if (split := split_model_name(model)) is not None}
        apps = sorted({AppKey(*split[:2]) for split in parts.values()})
        endpoints: dict[AppKey, list[pb.Endpoint]] = {}
        for start in range(0, len(apps), _READ_TOGETHER):
            some = apps[start : start + _READ_TOGETHER]
            result = await self._client.txn((), [Op.get_prefix(keys.endpoints(app, ROLE_DIRECT)) for app in some])
            for app, step in zip(some, result.results, strict=True):
                endpoints[app] = list(_readable(step.kvs))
        return {model: _state(endpoints[AppKey(*split[:2])], split) for model, split in parts.items()}


def _state(endpoints: list[pb.Endpoint], model: tuple[str, str, str]) -> api.RoutedModel:
    """Why a model answers nothing, in words; a route may name what is not there yet."""
    usable = [one for one in endpoints if one.protocol in _AT_GATEWAYS]
    offering = [one for one in usable if any(offered.name == model[2] for offered in one.models)]
    ready = sum(one.state == ENDPOINT_READY for one in offering)
    warning = ""
    if not usable:
        warning = f"application {model[0]}/{model[1]} has no endpoints that a gateway asks"
    elif not offering:
        offered = sorted({offered.name for one in usable for offered in one.models})
        closest = closest_match(model[2], offered)
        hint = f"; did you mean `{closest}`?" if closest else f" (it offers: {', '.join(offered[:10])})"
        warning = f"application {model[0]}/{model[1]} offers no model `{model[2]}`{hint}"
    elif not ready:
        warning = "none of its endpoints takes requests now"
    return api.RoutedModel(ready=ready, warning=warning)


def _readable(kvs: Iterable[KeyValue]) -> Iterable[pb.Endpoint]:
    for kv in kvs:
        try:
            yield decode(pb.Endpoint, kv.value)
        except DataLoss as error:
            _log.warning("endpoint record ignored", extra={"store_key": kv.key, "error": error.message})


def _models(record: pb.RouteRecord) -> list[str]:
    return [*(target.model for target in record.targets), *record.fallbacks]


def _read(found: KeyValue | None) -> pb.RouteRecord | None:
    """None for one that is absent or damaged: it may be replaced."""
    if found is None:
        return None
    return next(iter(readable_routes((found,)).values()), None)


def _same(known: pb.RouteRecord, wanted: pb.RouteRecord) -> bool:
    return list(known.targets) == list(wanted.targets) and list(known.fallbacks) == list(wanted.fallbacks)


def _expect(name: str, known: pb.RouteRecord | None, version: int) -> None:
    current = known.version if known is not None else 0
    if version < 0:
        raise SpecError(f"if_version: {version} is negative", field="if_version")
    if version and current != version:
        raise Conflict(f"route {name} is of version {current}, not {version}: somebody changed it; read it again")


def _unknown(name: str, known: Iterable[str]) -> NotFound:
    closest = closest_match(name, sorted(known))
    hint = f"; did you mean `{closest}`?" if closest else " (`mesh routes list` shows what there is)"
    return NotFound(f"there is no route {name[:128]!r}{hint}")


def _busy(name: str) -> Conflict:
    return Conflict(f"route {name} is being changed by others all the time; try again")
