"""What an agent knows and does: the words of its pure parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from serving._proto import records_pb2 as pb
from serving.master.model import ActorRow
from serving.master.names import MasterName
from serving.store.keys import AppKey


@dataclass(frozen=True, slots=True)
class Placed:
    """A work order in the store."""

    order: pb.Placement
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Master:
    """A master that runs. `order` None: it has not been asked for its work order since the agent started."""

    name: MasterName
    actor: ActorRow
    order: pb.Placement | None = None
    ending: bool = False  # a record said that it must end


@dataclass(frozen=True, slots=True)
class Situation:
    """`fresh` False: etcd does not answer, and nothing may be concluded from what is missing."""

    placements: Mapping[AppKey, Placed]
    masters: tuple[Master, ...]
    fresh: bool


@dataclass(frozen=True, slots=True)
class StartMaster:
    order: pb.Placement


@dataclass(frozen=True, slots=True)
class AskOrder:
    """Its work order must be known before anything else can be decided about it."""

    name: MasterName


@dataclass(frozen=True, slots=True)
class Judge:
    """It runs without a placement: read why, and end it or write its placement back."""

    name: MasterName
    order: pb.Placement


@dataclass(frozen=True, slots=True)
class EndMaster:
    name: MasterName
    why: str


@dataclass(frozen=True, slots=True)
class RestorePlacement:
    """The store's work order is older than the one that is followed. `mod_revision` 0: it is absent."""

    order: pb.Placement
    mod_revision: int


Action = StartMaster | AskOrder | Judge | EndMaster | RestorePlacement


@dataclass(frozen=True, slots=True)
class Node:
    """A living node as Ray counts it, resources by Ray's names."""

    id: str
    address: str
    total: Mapping[str, float]
    available: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """One look at the cluster: nodes, the mesh's own living actors, versions; `here` is the agent's own address."""

    nodes: tuple[Node, ...]
    actors: tuple[ActorRow, ...]
    versions: Mapping[str, str] = field(default_factory=dict)
    here: str = ""
