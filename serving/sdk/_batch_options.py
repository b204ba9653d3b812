"""What runners of batches are told in a spec: what users write, how it is read, and the record of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from serving._proto import records_pb2 as pb
from serving.sdk._table import Field, ListOf, Record, Text, Whole

BATCH: Final = Record(
    "batch",
    (
        Field("concurrency", Whole(), "Batches that a runner works on at once; 0 is 2.", default=0),
        Field("namespaces", ListOf(Text()), "Tenants whose batches it takes; empty is all.", default=()),
        Field("workers", Whole(), "Processes that send the requests of a batch; 0 is 1.", default=0),
        Field("max_attempts", Whole(), "Attempts that break without progress until a batch fails; 0 is 16.", default=0),
    ),
)


def batch_record(values: Mapping[str, Any]) -> pb.BatchDeployment:
    """The record of what `BATCH` read."""
    return pb.BatchDeployment(**{name: values[name] for name in BATCH.names})
