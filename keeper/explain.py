"""Why replicas do not fit on a cluster, in words that say what would help. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from keeper.packing import Node, pack
from keeper.resources import SCALE, Demand, Need, said


def lack(demands: Sequence[Demand], nodes: Sequence[Node], left: Sequence[Node]) -> str:
    """The reason for `demands` not fitting.

    `nodes` have the room that the mesh may use at all, `left` the room beside what is placed there already.
    """
    if not nodes:
        return "the cluster has no nodes"
    reasons = [_named(demands, demand, reason) for demand in demands if (reason := _alone(demand, nodes, left))]
    return "; ".join(reasons) or _together(demands, left)


def _alone(demand: Demand, nodes: Sequence[Node], left: Sequence[Node]) -> str:
    """Why one deployment would not fit even without the others; "" when it would."""
    reason = _no_node(demand, nodes, left)
    if not reason and pack([demand], left) is None:
        return _too_many(demand, left)
    return reason


def _named(demands: Sequence[Demand], demand: Demand, reason: str) -> str:
    return reason if len(demands) == 1 else f"deployment {demand.name}: {reason}"


def _no_node(demand: Demand, nodes: Sequence[Node], left: Sequence[Node]) -> str:
    """Why not even one replica finds a node."""
    need = demand.need
    if any(node.count(need) != 0 for node in left):
        return ""
    suited = [node for node in nodes if node.suits(need)]
    if not suited:
        return _no_such_node(need, nodes)
    ids = {node.id for node in suited}
    free = [node for node in left if node.id in ids]
    parts = [_shortage(name, amount, suited, free) for name, amount in need.amounts]
    found_parts = [part for part in parts if part]
    if found_parts:
        return f"{', and '.join(found_parts)}{_on(need)}"
    return f"needs {_sizes(need)} on one node, no single node has all of it free{_on(need)}"


def _no_such_node(need: Need, nodes: Sequence[Node]) -> str:
    """Why no node is of the wanted kind, whatever room it has."""
    accelerators = sorted({name for node in nodes for name in node.accelerators})
    if need.accelerator and need.accelerator not in accelerators:
        return f"needs accelerator {need.accelerator}, the cluster has {', '.join(accelerators) or 'none'}"
    for key, value in need.labels:
        values = sorted({node.labels[key] for node in nodes if key in node.labels})
        if value not in values:
            return f"needs a node with the label {key}={value}, the cluster has {', '.join(values) or 'none'}"
    return f"needs a node with {need.kind_of_node}, no single one has all of it"


def _shortage(name: str, amount: int, suited: Sequence[Node], free: Sequence[Node]) -> str:
    largest_free = max((node.room.get(name, 0) for node in free), default=0)
    if largest_free >= amount:
        return ""
    largest = max(node.room.get(name, 0) for node in suited)
    if largest < amount:
        return f"needs {said(name, amount)} on one node, the largest has {_bare(name, largest)} for the mesh"
    return f"needs {said(name, amount)} on one node, the largest has {_bare(name, largest_free)} free"


def _bare(name: str, amount: int) -> str:
    return said(name, amount) if name == "memory" else f"{amount / SCALE:g}"


def _on(need: Need) -> str:
    return f" (nodes with {need.kind_of_node})" if need.kind_of_node else ""


def _sizes(need: Need) -> str:
    return " and ".join(said(name, amount) for name, amount in need.amounts) or "nothing"


def _too_many(demand: Demand, left: Sequence[Node]) -> str:
    """How many of the replicas would fit."""
    fit = sum(node.count(demand.need) or 0 for node in left)
    return f"{demand.count} replicas of {_sizes(demand.need)} each are wanted, {fit} fit{_on(demand.need)}"


def _together(demands: Sequence[Demand], left: Sequence[Node]) -> str:
    """Each deployment fits alone: say what is asked for, what is free, and that it is the sum."""
    wanted: dict[str, int] = {}
    for demand in demands:
        for name, amount in demand.need.amounts:
            wanted[name] = wanted.get(name, 0) + amount * demand.count
    short = []
    for name in sorted(wanted):
        free = sum(node.room.get(name, 0) for node in left)
        if wanted[name] > free:
            short.append(f"needs {said(name, wanted[name])} in all, {_bare(name, free)} free")
    if short:
        return ", and ".join(short)
    return "its replicas fit one by one, but not all of them on the nodes that are there"
