"""Amounts of resources as exact integers, what a replica needs, and how both are said to people. Pure.

Ray counts cores, devices and custom resources in ten-thousandths, so amounts here are whole ten-thousandths; memory is
in bytes. Sums and comparisons are then exact, in whatever order they are made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from serving._proto import records_pb2 as pb

CPU: Final = "CPU"
GPU: Final = "GPU"
MEMORY: Final = "memory"
SCALE: Final = 10_000
_ONE_NODE: Final = "strict_pack"
_ACCELERATOR_PREFIX: Final = "accelerator_type:"

Amounts = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Need:
    """What one replica needs, all on one node. `amounts` holds no zeros and is sorted by name."""

    amounts: tuple[tuple[str, int], ...]
    accelerator: str = ""
    labels: tuple[tuple[str, str], ...] = ()  # that the node must carry

    @property
    def kind_of_node(self) -> str:
        """What the node must be, in words; "" for any."""
        return ", ".join([self.accelerator] * bool(self.accelerator) + [f"{key}={value}" for key, value in self.labels])


@dataclass(frozen=True, slots=True)
class Demand:
    """`count` equal replicas, or parts of replicas, of what `name` says: a deployment, or a bundle of one."""

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
        Demand(f"{deployment.name}{part}", need, count_of(deployment, most=most))
        for deployment in spec.deployments
        for part, need in _needs(deployment)
    )


def count_of(deployment: pb.DeploymentSpec, *, most: bool) -> int:
    """How many replicas are counted for a deployment: its least number, and at least one; or the `most`."""
    return max(1, deployment.replicas.max if most else deployment.replicas.min)


def _needs(deployment: pb.DeploymentSpec) -> Iterator[tuple[str, Need]]:
    """Of one replica: itself and its bundles by what is added to its name, each on any node, or all on one."""
    labels = tuple(sorted(deployment.scheduling.node_labels.items()))
    parts = [deployment.resources, *deployment.scheduling.bundles]
    if deployment.scheduling.bundle_strategy == _ONE_NODE:
        total: dict[str, int] = {}
        for part in parts:
            for name, amount in amounts_of(part).items():
                total[name] = total.get(name, 0) + amount
        types = sorted({part.accelerator_type for part in parts if part.accelerator_type})
        yield "", Need(tuple(sorted(total.items())), types[0] if types else "", labels)
        return
    for number, part in enumerate(parts):
        need = Need(tuple(sorted(amounts_of(part).items())), part.accelerator_type, labels)
        yield f", bundle {number - 1}" if number else "", need


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
