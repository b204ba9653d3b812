"""What a semantic cache is told in a spec: what users write, how it is read, and the record of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from serving._proto import records_pb2 as pb
from serving.sdk._table import BYTES, SECONDS, Field, Flag, ListOf, Number, Record, Text, Whole

_THRESHOLD: Final = 0.8
_TEMPERATURE: Final = 0.7
SEMANTIC_CACHE: Final = Record(
    "semantic_cache",
    (
        Field("before", ListOf(Text()), "The llm deployments whose answers it keeps; empty is all.", default=()),
        Field("threshold", Number(), "Least likeness (cosine) of a hit; 1 is equal texts only.", default=_THRESHOLD),
        Field("error_bound", Number(), "Share of wrong hits that is allowed, learned; 0 is not learned.", default=0.0),
        Field("ttl", SECONDS, "An answer is kept for so long; 0 is a day.", default=0.0),
        Field("max_entries", Whole(), "Answers that are kept; 0 is 100000.", default=0),
        Field("max_bytes", BYTES, "Their size with vectors: 1Gi; 0 is 2 GiB.", default=0),
        Field("max_answer_bytes", BYTES, "Size of one answer; 0 is 1 MiB.", default=0),
        Field("evict", Text(), "lru (not used for longest goes first) or lfu (used least often).", default=""),
        Field("max_temperature", Number(), "Above it, without a seed, nothing is cached.", default=_TEMPERATURE),
        Field("per_user", Flag(), "Whether end users of a tenant share no answers.", default=False),
        Field("without_guards", ListOf(Text()), "Guards that are not asked.", default=()),
        Field("path", Text(), "Its folder on its node; without it in the node's cache.", default=""),
        Field("threads", Whole(), "Threads that compute one vector; 0 is 1.", default=0),
    ),
)


def semantic_cache_record(values: Mapping[str, Any]) -> pb.SemanticCacheDeployment:
    """The record of what `SEMANTIC_CACHE` read. Defaults are not stored."""
    threshold, temperature = values["threshold"], values["max_temperature"]
    return pb.SemanticCacheDeployment(
        before=values["before"],
        threshold=None if threshold == _THRESHOLD else threshold,
        error_bound=values["error_bound"],
        ttl_s=values["ttl"],
        max_entries=values["max_entries"],
        max_bytes=values["max_bytes"],
        max_answer_bytes=values["max_answer_bytes"],
        evict=values["evict"],
        max_temperature=None if temperature == _TEMPERATURE else temperature,
        per_user=values["per_user"],
        without_guards=values["without_guards"],
        path=values["path"],
        threads=values["threads"],
    )
