"""Whose requests can wait: models by name, also of deployments without a replica, and which of them have a broker."""

from __future__ import annotations

import random
import zlib
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Final

from serving._proto import records_pb2 as pb
from serving.errors import Unavailable
from serving.gateway.catalog import Catalog, ModelKey, Offer, speaks_openai
from serving.gateway.follower import CatalogFollower
from serving.gateway.splits import Chosen
from serving.openai.errors import InvalidRequest
from serving.routing import Place
from serving.store.keys import AppKey
from serving.types import ENDPOINT_READY, PROTOCOL_BROKER_GRPC, PROTOCOL_KSERVE_GRPC, ROLE_BROKER, ROLE_DIRECT

_REMEMBERED: Final = 4096
_ALL: Final = ""  # of a broker that does not name deployments


def _no_broker(key: ModelKey, deployment: str) -> InvalidRequest:
    return InvalidRequest(
        f"the model `{key}` does not take requests that wait: its deployment `{deployment}` is not supported by a "
        f"broker. Add `{{name: queue, broker: {{before: [{deployment}]}}}}` to the deployments of "
        f"`{key.namespace}/{key.application}` in its spec",
        param="model",
        error_code="no_broker",
    )


class QueueTargets:
    """Belongs to one event loop; made before `follower` starts."""

    def __init__(self, follower: CatalogFollower, namespaces: Collection[str], own: Collection[AppKey] = ()) -> None:
        """`own`: the only applications there are for it; empty: those of `namespaces`."""
        self._namespaces = namespaces
        self._own = own
        self._endpoints: Sequence[pb.Endpoint] = ()
        self._catalogs: dict[str, Catalog] = {}  # by protocol, made when one is asked for
        self._apps: set[AppKey] = set()
        self._pulled: dict[AppKey, frozenset[str]] = {}
        # Deployments that a broker takes requests for or took them once: one that restarts is not there for a moment.
        self._queued: OrderedDict[tuple[AppKey, str], None] = OrderedDict()
        follower.listen(self._on_endpoints)

    def catalog(self, *, openai: bool) -> Catalog:
        """The models that are asked in OpenAI's protocol, or in KServe's."""
        name = "openai" if openai else "kserve"
        found = self._catalogs.get(name)
        if found is None:
            usable = _speaks_openai if openai else _speaks_kserve
            endpoints = [*self._endpoints, *_without_replicas(self._endpoints)]
            found = self._catalogs[name] = Catalog(endpoints, tuple(self._namespaces), usable)
        return found

    def serves(self, app: AppKey) -> bool:
        """Whether it is one that this gateway offers."""
        if self._own:
            return app in self._own
        return not self._namespaces or app.namespace in self._namespaces

    def knows(self, app: AppKey) -> bool:
        """Whether something of it is in discovery, or a broker of it was."""
        return app in self._apps or any(known == app for known, _ in self._queued)

    def deployment(self, offer: Offer, chosen: Chosen, key: str) -> str:
        """Which one is to answer: on the request's side, and for equal idempotency keys the same.

        Raises `InvalidRequest` where no broker takes requests for it.
        """
        places = [(chosen.place(endpoint), endpoint.deployment) for endpoint in offer.endpoints]
        best = min(place for place, _ in places)
        if best is Place.NEVER:
            raise Unavailable(f"no deployment of the model `{offer.key}` may answer this request now")
        candidates = sorted({deployment for place, deployment in places if place is best})
        app = AppKey(offer.key.namespace, offer.key.application)
        fitting = [one for one in candidates if self._has_broker(app, one)]
        if not fitting:
            raise _no_broker(offer.key, candidates[0])
        return fitting[zlib.crc32(key.encode()) % len(fitting)] if key else random.choice(fitting)

    def pulls(self, app: AppKey) -> bool:
        """Whether some deployment of the application gets its requests through a broker that is there."""
        return app in self._pulled

    def offers_pulled(self, key: ModelKey, *, openai: bool = False) -> bool:
        """Whether a deployment that gets its requests through a broker offers the model."""
        known = self._pulled.get(AppKey(key.namespace, key.application))
        offer = self.catalog(openai=openai).get(key) if known else None
        return offer is not None and any(one.deployment in (known or ()) for one in offer.endpoints)

    def pulled(self, offer: Offer, chosen: Chosen) -> str:
        """The deployment that is to answer, where it gets its requests through a broker that takes them now; or "".

        Without such a broker they go to its replicas at once: what runs does not depend on one.
        """
        app = AppKey(offer.key.namespace, offer.key.application)
        known = self._pulled.get(app, frozenset())
        places = [(chosen.place(endpoint), endpoint.deployment) for endpoint in offer.endpoints]
        best = min(place for place, _ in places)
        if best is Place.NEVER:
            return ""  # whoever sends it says why
        deployment = random.choice([deployment for place, deployment in places if place is best])
        return deployment if deployment in known else ""

    def _has_broker(self, app: AppKey, deployment: str) -> bool:
        return (app, deployment) in self._queued or (app, _ALL) in self._queued

    def _on_endpoints(self, endpoints: Sequence[pb.Endpoint]) -> None:
        self._endpoints = endpoints
        self._catalogs.clear()
        self._apps = {_app(one) for one in endpoints}
        self._pulled = _pulled(endpoints)
        for broker in filter(_is_broker, endpoints):
            for deployment in broker.before or (_ALL,):
                self._queued[_app(broker), deployment] = None
                self._queued.move_to_end((_app(broker), deployment))
        while len(self._queued) > _REMEMBERED:
            self._queued.popitem(last=False)


def _app(endpoint: pb.Endpoint) -> AppKey:
    return AppKey(endpoint.namespace, endpoint.application)


def _is_broker(endpoint: pb.Endpoint) -> bool:
    return endpoint.protocol == PROTOCOL_BROKER_GRPC and endpoint.role == ROLE_BROKER


def _pulled(endpoints: Sequence[pb.Endpoint]) -> dict[AppKey, frozenset[str]]:
    """Deployments whose brokers say that requests come through them: those that take requests now, and of several
    brokers of one deployment the newest, as an update changes what they say."""
    newest: dict[tuple[AppKey, str], tuple[int, int]] = {}
    taking = [one for one in filter(_is_broker, endpoints) if one.state == ENDPOINT_READY and not one.drained]
    for broker in taking:
        name, version = (_app(broker), broker.deployment), (broker.generation, broker.revision)
        newest[name] = max(version, newest.get(name, version))
    found: dict[AppKey, set[str]] = {}
    for broker in taking:
        if broker.pulled and newest[_app(broker), broker.deployment] == (broker.generation, broker.revision):
            found.setdefault(_app(broker), set()).update(broker.pulled)
    return {app: frozenset(deployments) for app, deployments in found.items()}


def _speaks_openai(endpoint: pb.Endpoint) -> bool:
    return speaks_openai(endpoint) or not endpoint.protocol


def _speaks_kserve(endpoint: pb.Endpoint) -> bool:
    return endpoint.role == ROLE_DIRECT and endpoint.protocol in (PROTOCOL_KSERVE_GRPC, "")


def _without_replicas(endpoints: Sequence[pb.Endpoint]) -> list[pb.Endpoint]:
    """Deployments that a broker names and that have no replica now: models of the deployments' own names."""
    there = {(_app(one), one.deployment) for one in endpoints if one.role == ROLE_DIRECT}
    made: dict[tuple[AppKey, str], pb.Endpoint] = {}
    for broker in filter(_is_broker, endpoints):
        for deployment in broker.before:
            name = (_app(broker), deployment)
            if name not in there:
                made[name] = pb.Endpoint(
                    id=f"{deployment}-none",
                    role=ROLE_DIRECT,
                    namespace=broker.namespace,
                    application=broker.application,
                    deployment=deployment,
                    models=[pb.ModelRecord(name=deployment)],
                )
    return list(made.values())
