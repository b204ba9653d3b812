"""How a deployment's replicas are replaced: what users write, how it is read, the record of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from serving._proto import records_pb2 as pb
from serving.sdk._table import SECONDS, Field, Place, Record, Whole, describe
from serving.sdk._traffic_options import CANARY, Canary, canary_record

_PERCENT: Final = re.compile(r"([0-9]{1,9})\s*%")


@dataclass(frozen=True, slots=True)
class Rollout:
    """How the replicas of a new revision take over from the old ones.

    `max_surge` replicas more than wanted may run meanwhile, `max_unavailable` may be missing: numbers, or texts such as
    `"25%"` of the wanted ones. An old replica goes when a new one has been ready for `min_ready` seconds. With a
    `canary` the new replicas get a growing share of the requests.
    """

    max_surge: int | str = 1
    max_unavailable: int | str = 0
    min_ready: float | str = 0.0
    canary: Canary | None = None


@dataclass(frozen=True, slots=True)
class Amount:
    """A number of replicas, or a share of them: 2 or 25%."""

    def read(self, value: object, at: Place) -> int | str:
        if isinstance(value, str):
            if _PERCENT.fullmatch(value.strip()):
                return value.strip()
            at.fail(f"expects a whole number or a share such as 25%, got {describe(value)}")
            return 0
        return Whole().read(value, at)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": r"^[0-9]+\s*%$"}]}


ROLLOUT: Final = Record(
    "a rollout",
    (
        Field("max_surge", Amount(), "Replicas beside the wanted number meanwhile: 1 or 25%.", default=1),
        Field("max_unavailable", Amount(), "Replicas that may be missing meanwhile: 0 or 25%.", default=0),
        Field("min_ready", SECONDS, "A new replica counts when it has been ready for so long.", default=0.0),
        Field("canary", CANARY, "The new revision gets a growing share of the requests, as long as it does well."),
    ),
)


def rollout_record(values: Mapping[str, Any]) -> pb.Rollout | None:
    """The record of what `ROLLOUT` read; None for the defaults, so that a spec without them stays as it is."""
    if values == ROLLOUT.defaults():
        return None
    return pb.Rollout(
        max_surge=_amount(values["max_surge"]),
        max_unavailable=_amount(values["max_unavailable"]),
        min_ready_s=values["min_ready"],
        canary=canary_record(values["canary"]),
    )


def _amount(value: int | str) -> pb.ReplicaAmount:
    if isinstance(value, int):
        return pb.ReplicaAmount(count=value)
    found = _PERCENT.fullmatch(value)
    return pb.ReplicaAmount(percent=int(found[1]) if found else 0)
