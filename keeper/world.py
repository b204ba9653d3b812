"""What a plan for one application must know of everything else. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from keeper.constraints import Neighbour
from keeper.picture import Picture
from keeper.placement import ClusterState, Liveness
from keeper.quota import Quotas
from serving._proto import records_pb2 as pb
from serving.store.keys import AppKey


@dataclass(frozen=True, slots=True)
class World:
    """The clusters, everything placed, every spec and the limits, at `now_s` (unix seconds)."""

    now_s: float
    clusters: tuple[ClusterState, ...]
    placed: tuple[Neighbour, ...]
    specs: tuple[pb.ApplicationSpec, ...]
    quotas: Quotas = field(default_factory=Quotas)
    adopt_grace_s: float = 15.0
    known_since: Mapping[AppKey, float] = field(default_factory=dict)

    def cluster(self, name: str) -> ClusterState | None:
        return next((state for state in self.clusters if state.name == name), None)

    def liveness(self, name: str) -> Liveness:
        """A cluster that nobody ever saw counts as gone."""
        state = self.cluster(name)
        return state.liveness if state else Liveness.GONE

    def liveness_by_name(self) -> dict[str, Liveness]:
        return {state.name: state.liveness for state in self.clusters}

    def running_on(self, key: AppKey) -> tuple[str, ...]:
        """The living clusters whose agents report a master of the application."""
        return tuple(
            state.name
            for state in self.clusters
            if state.liveness is Liveness.ALIVE and str(key) in state.record.masters
        )


def neighbours(picture: Picture) -> tuple[Neighbour, ...]:
    """Every work order that is in the store."""
    return tuple(
        Neighbour(app.key, cluster, placed.value.stored.spec)
        for app in picture.apps.values()
        for cluster, placed in app.placements.items()
    )


def specs(picture: Picture) -> tuple[pb.ApplicationSpec, ...]:
    """Every spec that is stored and not being deleted."""
    return tuple(
        app.spec.value.spec for app in picture.apps.values() if app.spec is not None and not app.spec.value.deleting
    )
