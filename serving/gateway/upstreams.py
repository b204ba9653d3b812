"""The replicas behind a gateway: what runs on each, which are out for a while, and the choice among them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from serving._proto import records_pb2 as pb
from serving.gateway.balance import NO_DEMAND, Balance
from serving.gateway.catalog import Catalog, ModelKey, Offer
from serving.gateway.demand import Demand
from serving.gateway.pools import Pool, Wanted
from serving.gateway.splits import NO_TRAFFIC, Chosen
from serving.routing import (
    NO_SIDES,
    LatencyTracker,
    OutlierDetector,
    Place,
    Rank,
    RetryBudget,
    Sides,
    Traffic,
    prefer_labels,
)
from serving.types import ENDPOINT_READY

UpstreamKey: TypeAlias = tuple[str, str, str, str]  # namespace, application, id, address: elsewhere it is another one
_DEFAULT_WEIGHT: Final = 100
_MOST_ROUTES: Final = 1024  # canaries of many deployments that serve one model make many combinations of sides


class Upstream:
    """One replica's endpoint, what runs on it, and how long its first bytes take.

    `outstanding_tokens` are those of prompts and expected answers that it was given and that are not computed yet.
    `trust`: how much of what it should have in its cache it finds there, 0 to 1. `number` is its name in indexes.
    """

    __slots__ = (
        *("_latency", "endpoint", "in_flight", "key", "number", "outstanding_tokens", "rests_until", "trust", "weight"),
    )

    def __init__(self, endpoint: pb.Endpoint, number: int) -> None:
        self.number = number
        self.key = upstream_key(endpoint)
        self.endpoint = endpoint
        self.weight = endpoint.weight or _DEFAULT_WEIGHT
        self.in_flight = 0
        self.outstanding_tokens = 0.0
        self.trust = 1.0
        self.rests_until = 0.0  # it has said that it is full: asked again then, or when all others are full, too
        self._latency = LatencyTracker()

    def update(self, endpoint: pb.Endpoint) -> None:
        """Takes over a changed record of the same endpoint."""
        self.endpoint = endpoint
        self.weight = endpoint.weight or _DEFAULT_WEIGHT

    @property
    def url(self) -> str:
        return f"{'https' if self.endpoint.tls else 'http'}://{self.endpoint.address}"

    @property
    def ready(self) -> bool:
        """Takes new work."""
        return self.endpoint.state == ENDPOINT_READY

    def latency_s(self, now: float) -> float:
        return self._latency.latency_s(now)

    def observe(self, latency_s: float, now: float) -> None:
        self._latency.observe(latency_s, now)

    def __str__(self) -> str:
        return f"replica {self.endpoint.id} at {self.endpoint.address}"


@dataclass(frozen=True, slots=True)
class _Route:
    """Replicas of a model for requests of the same sides, best pools first.

    `own` are those that come before any of another side.
    """

    all: tuple[Pool, ...]
    own: tuple[Pool, ...]


class Upstreams:
    """Kept in step with the catalog by `apply`. Belongs to one event loop; time is monotonic."""

    def __init__(
        self,
        wanted_labels: dict[str, str] | None = None,
        *,
        chance: Callable[[], float] = random.random,
        monotonic: Callable[[], float] = time.monotonic,
        balance: Balance | None = None,
    ) -> None:
        self._detectors: dict[ModelKey, OutlierDetector[UpstreamKey]] = {}  # one model's failures are not another's
        self._rank: Rank | None = prefer_labels(wanted_labels) if wanted_labels else None
        self._chance = chance
        self._monotonic = monotonic
        self._budgets: dict[ModelKey, RetryBudget] = {}
        self._known: dict[UpstreamKey, Upstream] = {}
        self._models: dict[UpstreamKey, ModelKey] = {}
        self._routes: dict[tuple[ModelKey, Sides, Traffic], _Route] = {}
        self.balance = balance or Balance()

    def apply(self, catalog: Catalog) -> None:
        """New endpoints come, known ones are updated, others get no new work."""
        endpoints = {upstream_key(one): one for offer in catalog.offers() for one in offer.endpoints}
        before = self._known
        self._known = {key: self._updated(key, endpoint) for key, endpoint in endpoints.items()}
        for key, upstream in before.items():
            if self._known.get(key) is not upstream:
                self.balance.forget(upstream)
        self.balance.retain([offer.key for offer in catalog.offers()])
        self._models = {upstream_key(one): offer.key for offer in catalog.offers() for one in offer.endpoints}
        self._detectors = {offer.key: self._detectors.get(offer.key) or OutlierDetector() for offer in catalog.offers()}
        self._budgets = {offer.key: self.budget(offer.key) for offer in catalog.offers()}
        for offer in catalog.offers():
            ready = (upstream_key(one) for one in offer.endpoints if self._known[upstream_key(one)].ready)
            self._detectors[offer.key].retain(ready)
        self._routes.clear()

    def _updated(self, key: UpstreamKey, endpoint: pb.Endpoint) -> Upstream:
        known = self._known.get(key)
        if known is None or known.endpoint.pid != endpoint.pid:  # another process, whose cache is empty
            return Upstream(endpoint, self.balance.new_number())
        known.update(endpoint)
        return known

    def changed(self) -> None:
        """The choice must be made anew: requests are shared in another way."""
        self._routes.clear()

    def pick(
        self,
        offer: Offer,
        tried: Collection[UpstreamKey] = (),
        demand: Demand = NO_DEMAND,
        chosen: Chosen | None = None,
        *,
        spare: bool = True,
        wanted: Wanted | None = None,
    ) -> Upstream | None:
        """The replica for the next request, none of `tried`; one that is ejected only when there is no other.

        `chosen` are the request's sides, where its application splits: replicas of others are asked when none of its
        own works. Without `spare` None then, also where an ejected one of its own side would be left. `wanted` is what
        `balance` makes of the demand, where it is known already.
        """
        now = self._monotonic()
        route = self._route(offer, chosen)
        wanted = wanted or self.balance.wanted(offer, demand)
        found = route.own[0].pick(wanted, now)
        if found is not None and found.rests_until <= now and found.key not in tried:
            return found
        untried = (lambda one: one.key not in tried and one.rests_until <= now), (lambda one: one.key not in tried)
        for pool in route.all if spare else route.own:
            for allowed in untried:
                found = pool.pick(wanted, now, allowed)
                if found is not None:
                    return found
        return None

    def has_room(self, offer: Offer) -> bool:
        """True when one of its replicas works, and has not said that it is full."""
        now = self._monotonic()
        detector = self._detectors[offer.key]
        return any(one.ready and one.rests_until <= now and detector.is_active(one.key) for one in self._of(offer))

    def budget(self, model: ModelKey) -> RetryBudget:
        """What pays for the retries of a model's requests; a new one for a model that is not in the catalog."""
        return self._budgets.get(model) or RetryBudget()

    def _route(self, offer: Offer, chosen: Chosen | None) -> _Route:
        if chosen is not None and not chosen.sides:
            chosen = None
        name = (offer.key, chosen.sides, chosen.traffic) if chosen is not None else (offer.key, NO_SIDES, NO_TRAFFIC)
        found = self._routes.get(name)
        if found is None:
            ready = [one for one in self._of(offer) if one.ready]
            if chosen is None:
                own = self._pools(offer, ready)
                found = _Route(own, own)
            else:
                places = [(chosen.place(one.endpoint), one) for one in ready]
                own = self._pools(offer, [one for place, one in places if place is Place.ON_SIDE])
                other = self._pools(offer, [one for place, one in places if place is Place.SPARE])
                found = _Route((own[0], other[0], own[1], other[1]), own[:1])
            if len(self._routes) >= _MOST_ROUTES:
                self._routes.clear()
            self._routes[name] = found
        return found

    def _pools(self, offer: Offer, ready: list[Upstream]) -> tuple[Pool, Pool]:
        """Those that work, and all."""
        working = [one for one in ready if self._detectors[offer.key].is_active(one.key)]
        near = self._near(working)
        return self.balance.pool(offer, near, self._chance), self.balance.pool(offer, ready, self._chance)

    def _of(self, offer: Offer) -> Iterator[Upstream]:
        for endpoint in offer.endpoints:
            upstream = self._known.get(upstream_key(endpoint))
            if upstream is not None:
                yield upstream

    def _near(self, working: list[Upstream]) -> list[Upstream]:
        if self._rank is None or not working:
            return working
        ranks = [self._rank(one.endpoint.labels) for one in working]
        return [one for one, rank in zip(working, ranks, strict=True) if rank == min(ranks)]

    # ------------------------------------------------------------------------------------------------ what they did

    def succeeded(self, upstream: Upstream, first_byte_s: float | None) -> None:
        """It answered, be it with an error of the request itself: such answers (None) tell nothing of its speed."""
        now = self._monotonic()
        if first_byte_s is not None:
            upstream.observe(first_byte_s, now)
        detector = self._detector(upstream)
        if detector is not None:
            detector.succeeded(upstream.key, now)

    def full(self, upstream: Upstream, rest_s: float) -> None:
        """It has no room for so long, as it says."""
        upstream.rests_until = self._monotonic() + rest_s

    def failed(self, upstream: Upstream) -> None:
        """It answered with an error of its own."""
        detector = self._detector(upstream)
        if detector is not None and detector.failed(upstream.key, self._monotonic()):
            self._routes.clear()

    def lost(self, upstream: Upstream) -> None:
        """The connection broke, or was refused."""
        detector = self._detector(upstream)
        if detector is not None and detector.lost(upstream.key, self._monotonic()):
            self._routes.clear()

    @property
    def ejected(self) -> int:
        """How many get no work now because they failed."""
        return sum(detector.ejected for detector in self._detectors.values())

    def due_probes(self) -> Iterable[Upstream]:
        """Those that must be asked whether they are back; each answer goes to `probed`."""
        now = self._monotonic()
        due = [key for detector in self._detectors.values() for key in detector.take_due_probes(now)]
        return [self._known[key] for key in due if key in self._known]

    def probed(self, upstream: Upstream, ok: bool) -> None:
        detector = self._detector(upstream)
        if detector is not None:
            detector.probed(upstream.key, ok, self._monotonic())
        self._routes.clear()

    def next_probe_in_s(self) -> float | None:
        """None while nobody is out."""
        times = [at for detector in self._detectors.values() if (at := detector.next_probe_at()) is not None]
        return max(0.0, min(times) - self._monotonic()) if times else None

    def _detector(self, upstream: Upstream) -> OutlierDetector[UpstreamKey] | None:
        model = self._models.get(upstream.key)
        return None if model is None else self._detectors[model]

    def everyone(self) -> tuple[Upstream, ...]:
        return tuple(self._known.values())


def upstream_key(endpoint: pb.Endpoint) -> UpstreamKey:
    return (endpoint.namespace, endpoint.application, endpoint.id, endpoint.address)
