"""Amounts of resources as exact integers, what a replica needs, and how both are said to people. Pure.

Ray counts cores, devices and custom resources in ten-thousandths, so amounts here are whole ten-thousandths; memory is
in bytes. Sums and comparisons are then exact, in whatever order they are made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from serving._proto import records_pb2 as pb

CPU: Final = "CPU"
GPU: Final = "GPU"
MEMORY: Final = "memory"
SCALE: Final = 10_000
_ACCELERATOR_PREFIX: Final = "accelerator_type:"

Amounts = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Need:
    """What one replica needs, all on one node. `amounts` holds no zeros and is sorted by name."""

    amounts: tuple[tuple[str, int], ...]
    accelerator: str = ""


@dataclass(frozen=True, slots=True)
class Demand:
    """`count` equal replicas of the deployment `name`."""

    name: str
    need: Need
    count: int


def amounts_of(resources: pb.Resources) -> dict[str, int]:
    """`resources` as amounts, without zeros; a custom `accelerator_type:X` is a mark of the node and no amount."""
    amounts = {
        CPU: round(resources.cpus * SCALE),
        GPU: round(resources.gpus * SCALE),
        MEMORY: resources.memory_bytes,
    }
    for name, value in resources.custom.items():
        if not name.startswith(_ACCELERATOR_PREFIX):
            amounts[name] = round(value * SCALE)
    return {name: amount for name, amount in amounts.items() if amount}


def accelerators_of(resources: pb.Resources) -> frozenset[str]:
    """The accelerator types that a node with these resources has."""
    named = {
        name.removeprefix(_ACCELERATOR_PREFIX)
        for name, value in resources.custom.items()
        if name.startswith(_ACCELERATOR_PREFIX) and value > 0
    }
    if resources.accelerator_type:
        named.update(part.strip() for part in resources.accelerator_type.split(","))
    return frozenset(named)


def demands_of(spec: pb.ApplicationSpec, *, most: bool = False) -> tuple[Demand, ...]:
    """What the deployments of `spec` need to serve: their least number of replicas, and at least one; or the `most`."""
    return tuple(
        Demand(
            deployment.name,
            Need(tuple(sorted(amounts_of(deployment.resources).items())), deployment.resources.accelerator_type),
            max(1, deployment.replicas.max if most else deployment.replicas.min),
        )
        for deployment in spec.deployments
    )


def total_of(demands: Iterable[Demand]) -> dict[str, int]:
    """The sum over all replicas."""
    total: dict[str, int] = {}
    for demand in demands:
        for name, amount in demand.need.amounts:
            total[name] = total.get(name, 0) + amount * demand.count
    return total


def said(name: str, amount: int) -> str:
    """`amount` of `name` for people: "2 CPUs", "0.5 GPUs", "3 GiB of memory", "1 `license`"."""
    if name == MEMORY:
        return f"{_bytes(amount)} of memory"
    number = f"{amount / SCALE:g}"
    if name in (CPU, GPU):
        return f"{number} {name}" if amount == SCALE else f"{number} {name}s"
    return f"{number} `{name}`"


def _bytes(amount: int) -> str:
    value = float(amount)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.3g} {unit}" if unit != "bytes" else f"{amount} bytes"
        value /= 1024
    return f"{value:.4g} TiB"
