"""The cluster's record, from what Ray says. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from serving._proto import records_pb2 as pb
from serving.cluster_agent.model import ClusterFacts, Node
from serving.master.model import ActorRow, ActorState
from serving.master.names import parse_master

_ACCELERATOR: Final = "accelerator_type:"
_HEAD: Final = "node:__internal_head__"
_NOT_OURS: Final = ("node:", "object_store_memory", "bundle_group")  # Ray's own marks


def cluster_record(
    name: str, agent_id: str, labels: Mapping[str, str], facts: ClusterFacts, now: float, *, metrics_address: str = ""
) -> pb.ClusterRecord:
    """`mesh_used` counts actors that have their resources, `pending` those that wait. `now` is unix seconds."""
    placed = [row for row in facts.actors if row.state is ActorState.ALIVE]
    waiting = [row for row in facts.actors if row.state is ActorState.PENDING or row.state is ActorState.RESTARTING]
    masters = sorted({str(found.app) for row in facts.actors if (found := parse_master(row.name)) is not None})
    stamp = Timestamp()
    stamp.FromMilliseconds(round(now * 1000))
    return pb.ClusterRecord(
        name=name,
        agent_id=agent_id,
        total=resources(_sum(node.total for node in facts.nodes)),
        available=resources(_sum(node.available for node in facts.nodes)),
        mesh_used=_required(placed),
        pending=_required(waiting),
        nodes=[_node(node) for node in sorted(facts.nodes, key=lambda node: node.id)],
        labels=dict(labels),
        versions=dict(facts.versions),
        updated_at=stamp,
        masters=masters,
        metrics_address=metrics_address,
    )


def same_but_for_time(one: pb.ClusterRecord, other: pb.ClusterRecord) -> bool:
    left, right = pb.ClusterRecord(), pb.ClusterRecord()
    left.CopyFrom(one)
    right.CopyFrom(other)
    left.ClearField("updated_at")
    right.ClearField("updated_at")
    return left == right


def resources(amounts: Mapping[str, float]) -> pb.Resources:
    """Ray's names to the mesh's. Accelerator types are joined with commas: a cluster may have several."""
    types = sorted(name.removeprefix(_ACCELERATOR) for name in amounts if name.startswith(_ACCELERATOR))
    custom = {
        name: amount
        for name, amount in amounts.items()
        if name not in ("CPU", "GPU", "memory") and not name.startswith((_ACCELERATOR, *_NOT_OURS))
    }
    return pb.Resources(
        cpus=amounts.get("CPU", 0.0),
        gpus=amounts.get("GPU", 0.0),
        accelerator_type=",".join(types),
        memory_bytes=int(amounts.get("memory", 0.0)),
        custom=custom,
    )


def _required(rows: Iterable[ActorRow]) -> pb.Resources:
    return resources(_sum(row.required for row in rows))


def _sum(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for part in parts:
        for name, amount in part.items():
            total[name] = round(total.get(name, 0.0) + amount, 4)  # Ray counts in ten-thousandths
    return total


def _node(node: Node) -> pb.NodeRecord:
    return pb.NodeRecord(
        id=node.id,
        address=node.address,
        total=resources(node.total),
        available=resources(node.available),
        labels=dict(node.labels),
        head=_HEAD in node.total,
    )
