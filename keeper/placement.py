"""On which cluster an application runs. Pure: the same input gives the same answer, in whatever order it comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from keeper import explain
from keeper.capacity import nodes_of, total_of_cluster, total_room
from keeper.constraints import Neighbour, forbidden, kept_apart, preferred
from keeper.packing import pack, pack_what_fits
from keeper.resources import Demand, demands_of, total_of
from serving._proto import records_pb2 as pb
from serving.store.keys import AppKey


class Liveness(Enum):
    """What is known of a cluster's agent."""

    ALIVE = "alive"  # its record is there
    SILENT = "silent"  # the record is gone, not yet for long enough to conclude anything
    GONE = "gone"  # the record is gone for longer than the grace time


@dataclass(frozen=True, slots=True)
class ClusterState:
    """A cluster as it is now; `record` is the last one seen."""

    record: pb.ClusterRecord
    liveness: Liveness

    @property
    def name(self) -> str:
        return self.record.name


@dataclass(frozen=True, slots=True)
class Current:
    """Where the application is now, and the spec that was placed there."""

    cluster: str
    spec: pb.ApplicationSpec


@dataclass(frozen=True, slots=True)
class Choice:
    """The application belongs on `cluster`; `stays` when it is there already. `why` is a sentence for people."""

    cluster: str
    stays: bool
    why: str


@dataclass(frozen=True, slots=True)
class NoFit:
    """No cluster can take the application now; one reason per cluster, sorted by cluster."""

    reasons: tuple[tuple[str, str], ...]


def decide(
    spec: pb.ApplicationSpec,
    current: Current | None,
    clusters: Sequence[ClusterState],
    placed: Sequence[Neighbour],
) -> Choice | NoFit:
    """Chooses the cluster for `spec`.

    `placed` holds every application with a work order, this one included or not (its own are passed over). An
    application stays where it is while that is allowed and its needs did not grow, or still fit: a cluster that is
    short for a moment, or an agent that is silent for a moment, moves nothing.
    """
    others = [other for other in placed if other.app != AppKey(spec.namespace, spec.name)]
    states = {state.name: state for state in clusters}
    if current is not None:
        why = _stays(spec, current, states, others)
        if why:
            return Choice(current.cluster, True, why)
    reasons: dict[str, str] = {}
    ranked: list[tuple[tuple[float, ...], str]] = []
    for name in sorted(states):
        reason = _obstacle(spec, states[name], others)
        if reason:
            reasons[name] = reason
        else:
            ranked.append((_rank(spec, states[name].record, others), name))
    if not ranked:
        return NoFit(tuple(sorted(reasons.items())))
    chosen = min(ranked)[1]
    return Choice(chosen, current is not None and current.cluster == chosen, _why(current, states, chosen))


def _stays(
    spec: pb.ApplicationSpec, current: Current, states: Mapping[str, ClusterState], others: Sequence[Neighbour]
) -> str:
    """Why the application stays without being weighed against other clusters; "" when it does not."""
    state = states.get(current.cluster)
    if state is None or state.liveness is Liveness.GONE:
        return ""
    if forbidden(spec.placement, state.name, state.record.labels):
        return ""
    if state.liveness is Liveness.SILENT:
        return f"cluster {state.name} does not answer; waiting whether it comes back"
    if _grew(current.spec, spec) and _lack(spec, state.record, others):
        return ""
    if spec.placement != current.spec.placement and kept_apart(spec, state.name, others):
        return ""
    return "stays where it is"


def _grew(old: pb.ApplicationSpec, new: pb.ApplicationSpec) -> bool:
    """True when `new` may need room that `old` did not have: more replicas, larger ones, or other nodes."""
    before = {demand.name: demand for demand in demands_of(old)}
    for demand in demands_of(new):
        known = before.get(demand.name)
        if known is None or demand.count > known.count:
            return True
        if (demand.need.accelerator, demand.need.labels) != (known.need.accelerator, known.need.labels):
            return True
        had = dict(known.need.amounts)
        if any(amount > had.get(name, 0) for name, amount in demand.need.amounts):
            return True
    return False


def _obstacle(spec: pb.ApplicationSpec, state: ClusterState, others: Sequence[Neighbour]) -> str:
    """Everything for which the application cannot be on this cluster; "" when it can."""
    reasons = [forbidden(spec.placement, state.name, state.record.labels)]
    if state.liveness is Liveness.ALIVE:
        reasons += [kept_apart(spec, state.name, others), _lack(spec, state.record, others)]
    else:  # what it has free is not known
        reasons.append("the cluster is gone" if state.liveness is Liveness.GONE else "the cluster does not answer")
    return "; ".join(reason for reason in reasons if reason)


def _lack(spec: pb.ApplicationSpec, record: pb.ClusterRecord, others: Sequence[Neighbour]) -> str:
    """What the cluster lacks for `spec` beside the applications that are on it; "" when it fits."""
    demands = demands_of(spec)
    nodes = nodes_of(record)
    committed = _committed(record.name, others)
    if pack([*committed, *demands], nodes) is not None:
        return ""
    left = pack_what_fits(committed, nodes)
    if pack(committed, nodes) is None and pack(demands, left) is not None:
        return ""  # others have too little of something that this one does not ask for
    return explain.lack(demands, nodes, left)


def _committed(cluster: str, others: Sequence[Neighbour]) -> list[Demand]:
    here = sorted((other for other in others if other.cluster == cluster), key=lambda other: other.app)
    return [demand for other in here for demand in demands_of(other.spec)]


def _rank(spec: pb.ApplicationSpec, record: pb.ClusterRecord, others: Sequence[Neighbour]) -> tuple[float, ...]:
    """Smallest is best: most preferred labels, then the smallest dominant share, then the fewest applications."""
    total = total_of_cluster(record)
    free = total_room(nodes_of(record))
    wanted = total_of(demands_of(spec))
    committed = total_of(_committed(record.name, others))
    shares = {
        name: (amount - free.get(name, 0) + committed.get(name, 0) + wanted.get(name, 0)) / amount
        for name, amount in total.items()
        if amount
    }
    asked = max((shares[name] for name in wanted if name in shares), default=0.0)
    overall = max(shares.values(), default=0.0)
    count = sum(other.cluster == record.name for other in others)
    return (-preferred(spec.placement, record.labels), round(asked, 9), round(overall, 9), count)


def _why(current: Current | None, states: Mapping[str, ClusterState], chosen: str) -> str:
    if current is None:
        return "first placement"
    if current.cluster == chosen:
        return "stays where it is"
    state = states.get(current.cluster)
    if state is None or state.liveness is Liveness.GONE:
        return f"cluster {current.cluster} is gone"
    return f"cluster {current.cluster} no longer suits the spec"
