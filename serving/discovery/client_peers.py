"""The endpoints a client knows: kept in step with the resolver's view, and the choice among them."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol, TypeAlias

import grpc

from serving._proto import records_pb2 as pb
from serving.discovery.client_peer import Peer, PeerKey, peer_key
from serving.routing import (
    NO_SIDES,
    LeastLatency,
    OutlierDetector,
    Place,
    PowerOfTwo,
    Rank,
    RendezvousMember,
    Sides,
    Traffic,
    rendezvous_best,
)
from serving.routing.policy import CONSISTENT_HASH, LEAST_LATENCY, POWER_OF_TWO
from serving.types import PROTOCOL_KSERVE_GRPC

Target: TypeAlias = tuple[str, str, str]  # deployment, model, version; "" is any

_MAX_ROUTES = 4096  # model names come from callers: what is remembered of them is bounded


class Chooses(Protocol):
    """The part of a request that sides are chosen by."""

    target: Target
    metadata: Sequence[tuple[str, str | bytes]]
    sequence: str
    sides: Sides
    traffic: Traffic | None


def value_of(metadata: Sequence[tuple[str, str | bytes]], wanted: str) -> str:
    """The first value of a name; "" when there is none."""
    return next((value for name, value in metadata if name == wanted and isinstance(value, str)), "")


class Route:
    """The peers for one target, best pool first: near and working, working, any that offer it.

    Where requests are split, those of the request's own side come before spare ones.
    """

    __slots__ = ("_members", "_pools")

    def __init__(self, pools: list[list[Peer]], chance: Callable[[], float], choice: str = POWER_OF_TWO) -> None:
        """`choice` is one of `routing.policy.CHOICES`."""
        kind = LeastLatency if choice == LEAST_LATENCY else PowerOfTwo
        self._pools = tuple(kind(pool, chance) for pool in pools if pool)
        self._members: tuple[list[RendezvousMember], ...] = ()
        if choice == CONSISTENT_HASH:
            self._members = tuple(
                [RendezvousMember(peer.endpoint.id, peer.weight) for peer in pool.candidates] for pool in self._pools
            )

    def pick(self, tried: Collection[PeerKey], now: float, hash_key: str = "") -> Peer | None:
        """A peer that is not among `tried`; None when there is none. `hash_key` is that of consistent hashing."""
        if hash_key and self._members:
            return self._owner(tried, hash_key)
        if not tried:
            return self._pools[0].pick(now) if self._pools else None
        for pool in self._pools:
            peer = pool.pick_among(lambda candidate: candidate.key not in tried, now)
            if peer is not None:
                return peer
        return None

    def _owner(self, tried: Collection[PeerKey], hash_key: str) -> Peer | None:
        for pool, members in zip(self._pools, self._members, strict=True):
            untried = [peer.key not in tried for peer in pool.candidates]
            best = rendezvous_best(hash_key, members, untried.__getitem__)
            if best is not None:
                return pool.candidates[best]
        return None

    def __bool__(self) -> bool:
        return bool(self._pools)


class PeerSet:
    """Peers by key. Those that left the view are kept aside until nothing runs on them."""

    def __init__(
        self,
        detector: OutlierDetector[PeerKey],
        rank: Rank | None,
        chance: Callable[[], float] = random.random,
        *,
        choice: str = POWER_OF_TWO,
    ) -> None:
        self.detector = detector
        self.credentials: grpc.ChannelCredentials | None = None
        self._rank = rank
        self._chance = chance
        self._choice = choice
        self._peers: dict[PeerKey, Peer] = {}
        self._gone: list[Peer] = []
        self._routes: dict[tuple[Target, Sides], Route] = {}
        self._splits: tuple[pb.TrafficSplit, ...] = ()
        self.traffic = Traffic()

    def apply(self, endpoints: Iterable[pb.Endpoint], splits: tuple[pb.TrafficSplit, ...] = ()) -> None:
        """Takes over a view: new peers come, known ones are updated, others get no new work."""
        if splits != self._splits:
            self._splits, self.traffic = splits, Traffic(splits)
        wanted = {
            peer_key(endpoint): endpoint
            for endpoint in endpoints
            if endpoint.address and endpoint.protocol in ("", PROTOCOL_KSERVE_GRPC)
        }
        for key in [key for key in self._peers if key not in wanted]:
            self._gone.append(self._peers.pop(key))
        for key, endpoint in wanted.items():
            peer = self._peers.get(key)
            if peer is None:
                self._peers[key] = Peer(endpoint, self.credentials)
            else:
                peer.update(endpoint)
        self.detector.retain(key for key, peer in self._peers.items() if not peer.leaving)
        self.changed()

    def changed(self) -> None:
        """The choice must be made anew: a peer was ejected, or came back."""
        self._routes.clear()

    def choose_sides(self, request: Chooses) -> None:
        """Once for each split that there is; for those that are new while the request waits or is tried again, then."""
        if request.traffic is self.traffic:
            return
        request.traffic = self.traffic
        if not self.traffic:
            request.sides = NO_SIDES
            return
        deployment, model, _ = request.target
        metadata = request.metadata
        found = self.traffic.sides(
            deployment, model, lambda name: value_of(metadata, name), self._chance, sequence=request.sequence
        )
        before = dict(request.sides)
        request.sides = tuple((split, before.get(split, side)) for split, side in found)

    def shadow(self, target: Target) -> str:
        """The deployment that gets a copy of a new request; "" for none."""
        return self.traffic.shadow(target[0], target[1], self._chance) if self.traffic else ""

    def route(self, target: Target, sides: Sides = NO_SIDES) -> Route:
        found = self._routes.get((target, sides))
        if found is None:
            if len(self._routes) >= _MAX_ROUTES:
                self._routes.clear()
            found = self._routes[target, sides] = self._make_route(target, sides)
        return found

    def offered(self, deployment: str) -> tuple[str, ...]:
        """Names of the models that endpoints with room for new work offer, sorted."""
        return tuple(sorted({m.name for peer in self._ready(deployment) for m in peer.endpoint.models}))

    def has_ready(self, deployment: str) -> bool:
        return bool(self._ready(deployment))

    def typical_latency_s(self, now: float) -> float:
        """The lowest known latency of a peer; 0.0 when none is known."""
        known = [latency for peer in self._peers.values() if (latency := peer.latency_s(now)) > 0]
        return min(known, default=0.0)

    def endpoints(self) -> tuple[pb.Endpoint, ...]:
        return tuple(peer.endpoint for peer in self._peers.values())

    def get(self, key: PeerKey) -> Peer | None:
        return self._peers.get(key)

    def everyone(self) -> tuple[Peer, ...]:
        """All with a channel or work, those that left the view among them."""
        return (*self._peers.values(), *self._gone)

    def take_idle_gone(self, busy: Collection[PeerKey]) -> list[Peer]:
        """Peers that left the view and finished what ran, except the `busy` ones: the caller closes them."""
        idle = [peer for peer in self._gone if not peer.calls and peer.key not in busy]
        self._gone = [peer for peer in self._gone if peer not in idle]
        return idle

    def __len__(self) -> int:
        return len(self._peers)

    def _ready(self, deployment: str) -> list[Peer]:
        return [
            peer for peer in self._peers.values() if not peer.leaving and deployment in ("", peer.endpoint.deployment)
        ]

    def _make_route(self, target: Target, sides: Sides) -> Route:
        deployment, model, version = target
        offering = [peer for peer in self._ready(deployment) if peer.offers(model, version)]
        if not sides:
            return Route([*self._pools(offering), offering], self._chance, self._choice)
        places = [(self.traffic.place(sides, peer.endpoint), peer) for peer in offering]
        own = [peer for place, peer in places if place is Place.ON_SIDE]
        spare = [peer for place, peer in places if place is Place.SPARE]
        return Route([*self._pools(own), *self._pools(spare), own, spare], self._chance, self._choice)

    def _pools(self, offering: list[Peer]) -> tuple[list[Peer], list[Peer]]:
        """Those that work: the near ones, and all."""
        working = [peer for peer in offering if self.detector.is_active(peer.key)]
        near: list[Peer] = []
        if self._rank is not None and working:
            ranks = [self._rank(peer.endpoint.labels) for peer in working]
            best = min(ranks)
            near = [peer for peer, rank in zip(working, ranks, strict=True) if rank == best]
        return near, working
