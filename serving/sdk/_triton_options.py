"""Options of the embedded Triton that have fields of their own: what users write, how it is read, the record of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from serving._proto import records_pb2 as pb
from serving.sdk._table import BYTES, Field, Record, Text


@dataclass(frozen=True, slots=True)
class ResponseCache:
    """Answers of models with `response_cache { enable: true }` in their configuration are kept and given again.

    `size`: bytes of each replica's memory, a number or `"64Mi"`, taken when it starts. `type`: only `"local"`, the
    replica's own memory.
    """

    size: int | str
    type: str = "local"


RESPONSE_CACHE: Final = Record(
    "a response cache",
    (
        Field("size", BYTES, "Memory of each replica for it: 64Mi.", required=True),
        Field("type", Text(), "Where answers are kept: local is the replica's own memory.", default="local"),
    ),
)


def response_cache_record(values: Mapping[str, Any] | None) -> pb.ResponseCache | None:
    """The record of what `RESPONSE_CACHE` read; None where nothing was written."""
    if values is None:
        return None
    return pb.ResponseCache(type=values["type"], size_bytes=values["size"])
