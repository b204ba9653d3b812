"""Where an application may be placed by its policy: allowed clusters, labels, neighbours. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from serving._proto import records_pb2 as pb
from serving.store.keys import AppKey


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another application that is placed: where, and by which spec."""

    app: AppKey
    cluster: str
    spec: pb.ApplicationSpec


def forbidden(policy: pb.PlacementPolicy, cluster: str, labels: Mapping[str, str]) -> str:
    """Why the policy keeps an application off this cluster, whoever else is there; "" if it does not."""
    reasons = []
    if policy.clusters and cluster not in policy.clusters:
        reasons.append(f"not among the allowed clusters ({', '.join(sorted(policy.clusters))})")
    for name in sorted(policy.required_labels):
        wanted, found = policy.required_labels[name], labels.get(name)
        if found is None:
            reasons.append(f"label {name}={wanted} wanted, cluster has no label {name}")
        elif found != wanted:
            reasons.append(f"label {name}={wanted} wanted, cluster has {name}={found}")
    return "; ".join(reasons)


def kept_apart(spec: pb.ApplicationSpec, cluster: str, neighbours: Iterable[Neighbour]) -> str:
    """Why neighbours keep the application off this cluster now; "" if they do not.

    `spread_from` holds in both directions, else it would depend on who came first. `near` binds only to applications
    that are placed, else two applications near each other could never start.
    """
    near: dict[str, set[str]] = {}
    reasons = []
    for other in sorted(neighbours, key=lambda other: other.app):
        if other.app.namespace != spec.namespace or other.app.name == spec.name:
            continue
        if other.app.name in spec.placement.near:
            near.setdefault(other.app.name, set()).add(other.cluster)
        if other.cluster != cluster:
            continue
        if other.app.name in spec.placement.spread_from:
            reasons.append(f"must not share a cluster with {other.app.name}, which is here")
        elif spec.name in other.spec.placement.spread_from:
            reasons.append(f"{other.app.name}, which is here, must not share a cluster with {spec.name}")
    for name in sorted(near):
        if cluster not in near[name]:
            reasons.append(f"must be near {name}, which is on {', '.join(sorted(near[name]))}")
    return "; ".join(reasons)


def preferred(policy: pb.PlacementPolicy, labels: Mapping[str, str]) -> int:
    """How many of the preferred labels the cluster carries."""
    return sum(labels.get(name) == wanted for name, wanted in policy.preferred_labels.items())
