"""The room of a cluster for the mesh: total, less what others use, less what the mesh has promised already. Pure.

A cluster's record says what is free now, but free now is not free to promise: replicas that were placed a moment ago
have not started yet, and those that run are counted by their specs, which stay true when one of them restarts.
So: foreign use = total - available - the mesh's own use (all from the record); room = total - foreign use, and
every application placed here is packed into that room again by what its spec says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from keeper.packing import Node
from keeper.resources import accelerators_of, amounts_of
from serving._proto import records_pb2 as pb


def nodes_of(record: pb.ClusterRecord) -> tuple[Node, ...]:
    """The nodes with their room for the mesh, before the mesh's own placements are taken off.

    The record says the mesh's use of the whole cluster only, so foreign use is spread over the nodes in proportion to
    what is used on each. On a cluster of one node that is exact.
    """
    nodes = list(record.nodes) or [
        pb.NodeRecord(id=record.name, total=record.total, available=record.available, labels=record.labels)
    ]
    totals = [amounts_of(node.total) for node in nodes]
    used = [_less(total, amounts_of(node.available), total) for node, total in zip(nodes, totals, strict=True)]
    foreign = _foreign(record, used)
    return tuple(
        Node(
            node.id,
            _room(total, node_used, foreign, used),
            accelerators_of(node.total) | _labelled(node),
            dict(node.labels),
        )
        for node, total, node_used in zip(nodes, totals, used, strict=True)
    )


def total_room(nodes: Iterable[Node]) -> dict[str, int]:
    """The sum of the room of all nodes."""
    return _sum([dict(node.room) for node in nodes])


def total_of_cluster(record: pb.ClusterRecord) -> dict[str, int]:
    """Everything the cluster has."""
    return _sum([amounts_of(node.total) for node in record.nodes]) or amounts_of(record.total)


def _labelled(node: pb.NodeRecord) -> frozenset[str]:
    """Ray labels a node's accelerator as `ray.io/accelerator-type`."""
    label = node.labels.get("ray.io/accelerator-type", "")
    return frozenset((label,)) if label else frozenset()


def _foreign(record: pb.ClusterRecord, used: Sequence[dict[str, int]]) -> dict[str, int]:
    all_used = _sum(used)
    return _less(all_used, amounts_of(record.mesh_used), all_used)


def _room(
    total: dict[str, int], used: dict[str, int], foreign: dict[str, int], all_used: Sequence[dict[str, int]]
) -> dict[str, int]:
    sums = _sum(all_used)
    room = {}
    for name, amount in total.items():
        mine = used.get(name, 0)
        share = -(-foreign.get(name, 0) * mine // sums[name]) if mine else 0  # rounded up: never promise too much
        room[name] = max(0, amount - share)
    return room


def _less(left: dict[str, int], right: dict[str, int], names: Iterable[str]) -> dict[str, int]:
    return {name: max(0, left.get(name, 0) - right.get(name, 0)) for name in names}


def _sum(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for name, amount in part.items():
            total[name] = total.get(name, 0) + amount
    return total
