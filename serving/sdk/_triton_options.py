"""Options of the embedded Triton that have fields of their own: what users write, how it is read, the record of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from serving._proto import records_pb2 as pb
from serving.sdk._table import BYTES, Field, ListOf, Record, Text, Whole
from serving.validation import RATE_LIMITER_MODES


@dataclass(frozen=True, slots=True)
class ResponseCache:
    """Answers of models with `response_cache { enable: true }` in their configuration are kept and given again.

    `size`: bytes of each replica's memory, a number or `"64Mi"`, taken when it starts. `type`: only `"local"`, the
    replica's own memory.
    """

    size: int | str
    type: str = "local"


@dataclass(frozen=True, slots=True)
class RateLimiterResource:
    """So much of a resource there is: on each device, or on the one with the number `device`.

    Of a resource that models call global there is one `count` for the whole replica.
    """

    name: str
    count: int
    device: int | None = None


@dataclass(frozen=True, slots=True)
class RateLimiter:
    """Instances of models run as the `rate_limiter` of their instance groups says: resources and priorities.

    `resources` are all there are; without any there is as much of each as the neediest instance wants. `mode`: only
    `"execution_count"`.
    """

    resources: tuple[RateLimiterResource, ...] = ()
    mode: str = "execution_count"


RESPONSE_CACHE: Final = Record(
    "a response cache",
    (
        Field("size", BYTES, "Memory of each replica for it: 64Mi.", required=True),
        Field("type", Text(), "Where answers are kept: local is the replica's own memory.", default="local"),
    ),
)

_RESOURCE: Final = Record(
    "a resource",
    (
        Field("name", Text(), "As instance groups name it.", required=True),
        Field("count", Whole(), "How much of it there is.", required=True),
        Field("device", Whole(), "Only on the device of this number; without it on each."),
    ),
)
RATE_LIMITER: Final = Record(
    "a rate limiter",
    (
        Field("resources", ListOf(_RESOURCE), "What instances compete for.", default=()),
        Field(
            "mode",
            Text(allowed=RATE_LIMITER_MODES),
            "execution_count: by priority and number of executions.",
            default="execution_count",
        ),
    ),
)


def response_cache_record(values: Mapping[str, Any] | None) -> pb.ResponseCache | None:
    """The record of what `RESPONSE_CACHE` read; None where nothing was written."""
    if values is None:
        return None
    return pb.ResponseCache(type=values["type"], size_bytes=values["size"])


def rate_limiter_record(values: Mapping[str, Any] | None) -> pb.RateLimiter | None:
    """The record of what `RATE_LIMITER` read; None where nothing was written."""
    if values is None:
        return None
    resources = [pb.RateLimiterResource(**entry) for entry in values["resources"]]
    return pb.RateLimiter(mode=values["mode"], resources=resources)
