"""What replicas need and how many there are: what users write, how it is read, the records of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from serving._proto import records_pb2 as pb
from serving.sdk._table import BYTES, CORES, Field, MapOf, Number, Record, Text, Whole


@dataclass(frozen=True, slots=True)
class Resources:
    """What one replica needs.

    `cpus`: cores, a number or `"500m"`. `gpus`: devices, shares below 1 allowed. `accelerator_type`: as Ray names it
    (`"H200"`), empty is any. `memory`: bytes, a number or `"512Mi"`; 0 is not requested. `custom`: amounts by name.
    """

    cpus: float | str = 1.0
    gpus: float = 0.0
    accelerator_type: str = ""
    memory: int | str = 0
    custom: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Replicas:
    """How many replicas run: `min` to `max`, as `Autoscaling` says; without `max` exactly `min`."""

    min: int = 1
    max: int | None = None


RESOURCES: Final = Record(
    "resources",
    (
        Field("cpus", CORES, "Cores per replica: 2, 0.25 or 500m.", default=1.0),
        Field("gpus", Number(), "GPUs per replica; shares below 1 are allowed.", default=0.0),
        Field("accelerator_type", Text(), "Type of the GPU as Ray names it; empty is any.", default=""),
        Field("memory", BYTES, "Memory per replica: 512Mi, 2Gi or bytes; 0 is not requested.", default=0),
        Field("custom", MapOf(Number()), "Custom resources of the Ray cluster, by name.", default={}),
    ),
)
REPLICAS: Final = Record(
    "replicas",
    (
        Field("min", Whole(), "Replicas that always run.", default=1),
        Field("max", Whole(), "Upper limit; without autoscaling equal to min."),
    ),
)


def resources_record(values: Mapping[str, Any]) -> pb.Resources:
    """The record of what `RESOURCES` read."""
    return pb.Resources(
        cpus=values["cpus"],
        gpus=values["gpus"],
        accelerator_type=values["accelerator_type"],
        memory_bytes=values["memory"],
        custom=values["custom"],
    )


def replicas_record(values: int | Mapping[str, Any]) -> pb.Replicas:
    """The record of what `REPLICAS` or a number read."""
    if isinstance(values, int):
        return pb.Replicas(min=values, max=values)
    low, high = values["min"], values["max"]
    return pb.Replicas(min=low, max=low if high is None else high)
