"""How much a namespace may ask for, over all its applications. Pure; unlimited where nothing is configured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from keeper.resources import CPU, GPU, MEMORY, SCALE, count_of, demands_of, said, total_of
from serving._proto import records_pb2 as pb


@dataclass(frozen=True, slots=True)
class Limit:
    """None means unlimited. Counted by the most replicas that specs allow."""

    applications: int | None = None
    replicas: int | None = None
    cpus: float | None = None
    gpus: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Quotas:
    """Limits by namespace; `default` for namespaces that are not named."""

    default: Limit = field(default_factory=Limit)
    namespaces: Mapping[str, Limit] = field(default_factory=dict)

    def of(self, namespace: str) -> Limit:
        return self.namespaces.get(namespace, self.default)


def exceeded(spec: pb.ApplicationSpec, others: Iterable[pb.ApplicationSpec], quotas: Quotas) -> str:
    """Which limit of the namespace `spec` would exceed beside `others` (not its own older self); "" if none."""
    limit = quotas.of(spec.namespace)
    counted = [other for other in others if other.namespace == spec.namespace and other.name != spec.name]
    for word, wanted, used, allowed in _lines(spec, counted, limit):
        if allowed is not None and used + wanted > allowed:
            return (
                f"the quota of namespace {spec.namespace} is exceeded: {_text(word, allowed)} allowed, "
                f"{_text(word, used)} used by other applications, {_text(word, wanted)} asked for"
            )
    return ""


def _lines(
    spec: pb.ApplicationSpec, others: list[pb.ApplicationSpec], limit: Limit
) -> Iterable[tuple[str, int, int, int | None]]:
    mine, theirs = (
        total_of(demands_of(spec, most=True)),
        total_of(d for other in others for d in demands_of(other, most=True)),
    )
    yield "applications", 1, len(others), limit.applications
    yield "replicas", _replicas(spec), sum(map(_replicas, others)), limit.replicas
    for name, allowed in ((CPU, _scaled(limit.cpus)), (GPU, _scaled(limit.gpus)), (MEMORY, limit.memory_bytes)):
        yield name, mine.get(name, 0), theirs.get(name, 0), allowed


def _replicas(spec: pb.ApplicationSpec) -> int:
    return sum(count_of(deployment, most=True) for deployment in spec.deployments)


def _scaled(value: float | None) -> int | None:
    return None if value is None else round(value * SCALE)


def _text(word: str, amount: int) -> str:
    return said(word, amount) if word in (CPU, GPU, MEMORY) else f"{amount} {word}"
