"""On which nodes a deployment runs, and which replicas are replaced: what users write, how it is read, the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from serving._proto import records_pb2 as pb
from serving.sdk._resource_options import RESOURCES, Resources, resources_record
from serving.sdk._table import SECONDS, Field, ListOf, MapOf, Number, Record, Text, Word
from serving.validation.scaling import BUNDLE_STRATEGIES, STRATEGIES


@dataclass(frozen=True, slots=True)
class Scheduling:
    """`node_labels`: labels of Ray nodes that a node must carry, all of them. `strategy`: `"spread"` over as many nodes
    as possible, `"pack"` on those where replicas of the deployment run already, `""` as Ray does.

    `bundles`: what a replica of a Python deployment reserves beside its own resources, for the actors and tasks that
    it starts: one placement group of Ray, all or nothing. `bundle_strategy`: how these lie to each other, as Ray knows
    it: `"pack"` (the default), `"spread"`, `"strict_pack"`, `"strict_spread"`."""

    node_labels: Mapping[str, str] = field(default_factory=dict)
    strategy: str = ""
    bundles: Sequence[Resources] = ()
    bundle_strategy: str = ""


_BUNDLE: Final = Record("a bundle", RESOURCES.fields)
SCHEDULING: Final = Record(
    "scheduling",
    (
        Field("node_labels", MapOf(Word()), "Labels of Ray nodes; the node must carry all of them.", default={}),
        Field("strategy", Text(allowed=("", *STRATEGIES)), "spread or pack; left out as Ray does.", default=""),
        Field("bundles", ListOf(_BUNDLE), "Reserved with a replica, for the actors that its code starts.", default=()),
        Field(
            "bundle_strategy",
            Text(allowed=("", *BUNDLE_STRATEGIES)),
            "pack, spread, strict_pack or strict_spread.",
            default="",
        ),
    ),
)


def scheduling_record(values: Mapping[str, Any]) -> pb.Scheduling | None:
    """The record of what `SCHEDULING` read; None for the defaults, so that a spec without them stays as it is."""
    if values == SCHEDULING.defaults():
        return None
    bundles = [resources_record(bundle) for bundle in values["bundles"]]
    return pb.Scheduling(**{**values, "bundles": bundles})


def scheduling_of(values: Mapping[str, Any]) -> Scheduling:
    """What users write in Python, of what `SCHEDULING` read."""
    return Scheduling(**{**values, "bundles": tuple(Resources(**bundle) for bundle in values["bundles"])})


@dataclass(frozen=True, slots=True)
class SlowReplicas:
    """A replica whose median time is more than `factor` times that of the others for `after` is replaced; 0: never."""

    factor: float = 10.0
    after: float | str = 60.0


SLOW: Final = Record(
    "replace_slow",
    (
        Field("factor", Number(), "Times the median time of the other replicas; 0 is never.", default=10.0),
        Field("after", SECONDS, "It must have been so for so long: 60s.", default=60.0),
    ),
)


def slow_record(values: Mapping[str, Any]) -> pb.SlowReplicas | None:
    """The record of what `SLOW` read; None for the defaults."""
    if values == SLOW.defaults():
        return None
    return pb.SlowReplicas(factor=values["factor"], after_s=values["after"])
