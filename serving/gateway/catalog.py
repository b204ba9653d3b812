"""Which models there are, by which names, and who answers for each. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from serving._proto import records_pb2 as pb
from serving.errors import InvalidArgument, NotFound
from serving.routing.llm_routing import LlmRouting
from serving.spelling import closest_match
from serving.types import (
    ENDPOINT_READY,
    PROTOCOL_KSERVE_GRPC,
    PROTOCOL_OPENAI_HTTP,
    PROTOCOL_SEMANTIC_CACHE_HTTP,
    ROLE_DIRECT,
    split_model_name,
)

_SHOWN: Final = 10  # names in an error


@dataclass(frozen=True, slots=True, order=True)
class ModelKey:
    """A model as one application serves it. `str` is its full name, by which it can always be asked for."""

    namespace: str
    application: str
    model: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.application}/{self.model}"

    @classmethod
    def parse(cls, full: str) -> ModelKey | None:
        """None for what is no full name."""
        parts = split_model_name(full)
        return cls(*parts) if parts is not None else None


@dataclass(frozen=True, slots=True)
class Offer:
    """`endpoints` are ready and draining ones, in the order of their keys. `name` is the shortest unambiguous one.

    `routing` is what the newest revision of them says. `cache` is the ready semantic cache in front of all of them.
    """

    key: ModelKey
    name: str
    endpoints: tuple[pb.Endpoint, ...]
    routing: LlmRouting = field(default_factory=LlmRouting)
    cache: pb.Endpoint | None = None


def speaks_openai(endpoint: pb.Endpoint) -> bool:
    """Replicas only: proxies of applications speak it, too, and would be asked for what they ask replicas for."""
    return endpoint.protocol == PROTOCOL_OPENAI_HTTP and endpoint.role == ROLE_DIRECT


def speaks_kserve_rest(endpoint: pb.Endpoint) -> bool:
    """KServe v2 over HTTP, on the address of its gRPC."""
    return endpoint.rest and endpoint.protocol == PROTOCOL_KSERVE_GRPC and endpoint.role == ROLE_DIRECT


class Catalog:
    """The models at one moment. A client may name one by itself, as `application/model`, or in full.

    `caches` are all semantic caches, ready and draining ones.
    """

    def __init__(
        self,
        endpoints: Iterable[pb.Endpoint] = (),
        namespaces: Collection[str] = (),
        usable: Callable[[pb.Endpoint], bool] = speaks_openai,
    ) -> None:
        """`namespaces` empty: all. `usable` says whose models these are."""
        members: dict[ModelKey, list[pb.Endpoint]] = {}
        caches: list[pb.Endpoint] = []
        for endpoint in endpoints:
            if namespaces and endpoint.namespace not in namespaces:
                continue
            if endpoint.protocol == PROTOCOL_SEMANTIC_CACHE_HTTP:
                caches.append(endpoint)
            if not usable(endpoint):
                continue
            for model in endpoint.models:
                key = ModelKey(endpoint.namespace, endpoint.application, model.name)
                members.setdefault(key, []).append(endpoint)
        self._by_name: dict[str, list[ModelKey]] = {}
        for key in sorted(members):
            for name in _names(key):
                self._by_name.setdefault(name, []).append(key)
        self._by_name = {name: _meant(name, keys) for name, keys in self._by_name.items()}
        self.caches = tuple(caches)
        self._offers = {
            key: Offer(key, self._shortest(key), tuple(found), _routing(found), _cache_before(found, caches))
            for key, found in sorted(members.items())
        }

    def offers(self) -> tuple[Offer, ...]:
        """All of them, those without a ready endpoint too, by full name."""
        return tuple(self._offers.values())

    def find(self, name: str, allowed: Callable[[ModelKey], bool] = lambda _: True) -> Offer:
        """Raises `NotFound` with the closest names, `InvalidArgument` where several applications serve that name.

        Models that are not `allowed` count, and are named, only where nothing else has that name.
        """
        served = self._keys(name)
        found = [key for key in served if allowed(key)] or served[:1]
        if len(found) == 1:
            return self._offers[found[0]]
        if found:
            full = ", ".join(str(key) for key in found[:_SHOWN])
            raise InvalidArgument(f"the model `{name}` is served by several applications; ask for one of {full}")
        known = [offer.name for offer in self._offers.values() if allowed(offer.key)]
        closest = closest_match(name, known)
        hint = f"; did you mean `{closest}`?" if closest else ""
        listed = f" (there are: {', '.join(known[:_SHOWN])}{', ...' if len(known) > _SHOWN else ''})" if known else ""
        raise NotFound(f"the model `{name}` does not exist{hint}{listed}")

    def has(self, name: str) -> bool:
        """Whether anybody serves a model of that name, one application or several."""
        return bool(self._keys(name))

    def get(self, key: ModelKey) -> Offer | None:
        return self._offers.get(key)

    def _keys(self, name: str) -> list[ModelKey]:
        return self._by_name.get(name, [])

    def _shortest(self, key: ModelKey) -> str:
        return next(name for name in _names(key) if self._keys(name) == [key])


def _meant(name: str, keys: list[ModelKey]) -> list[ModelKey]:
    """A full name is nobody else's; then a model's own name, slashes and all, wins over an application's."""
    full = [key for key in keys if str(key) == name]
    return full or [key for key in keys if key.model == name] or keys


def is_ready(offer: Offer) -> bool:
    """True when somebody takes new work."""
    return any(endpoint.state == ENDPOINT_READY for endpoint in offer.endpoints)


def _cache_before(members: Collection[pb.Endpoint], caches: Collection[pb.Endpoint]) -> pb.Endpoint | None:
    """The newest one: while one takes over from another, both may be there."""
    first = next(iter(members))
    deployments = {member.deployment for member in members}
    fitting = [
        cache
        for cache in caches
        if cache.state == ENDPOINT_READY
        and (cache.namespace, cache.application) == (first.namespace, first.application)
        and (not cache.before or deployments <= set(cache.before))
    ]
    return max(fitting, key=lambda cache: (cache.generation, cache.revision), default=None)


def _routing(endpoints: list[pb.Endpoint]) -> LlmRouting:
    newest = max(endpoints, key=lambda one: (one.generation, one.revision))
    return LlmRouting.from_record(newest.llm_routing)


def _names(key: ModelKey) -> tuple[str, str, str]:
    return key.model, f"{key.application}/{key.model}", str(key)
