"""What a semantic cache reads from its `ReplicaConfig`, and the record that it registers. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from serving._proto import records_pb2 as pb
from serving.cache.scope import ScopeRules
from serving.cache.semantic_cache import CacheOptions
from serving.cache.store import Limits
from serving.errors import InvalidArgument
from serving.python_deployment import settings as common
from serving.types import PROTOCOL_SEMANTIC_CACHE_HTTP

_FOLDER: Final = "semantic-cache"


def folder(config: pb.ReplicaConfig) -> Path:
    """Of the deployment, whose only replica has it for itself. Raises `InvalidArgument`."""
    own = Path(config.namespace) / config.application / config.deployment
    if config.semantic_cache.path:
        return Path(config.semantic_cache.path) / own
    if not config.cache_dir:
        raise InvalidArgument("nothing says where answers are kept: neither semantic_cache.path nor cache_dir")
    return Path(config.cache_dir).absolute() / _FOLDER / own


def kept_for(config: pb.ReplicaConfig, embedder: str) -> str:
    """Answers of anything else are dropped. Vectors of another embedder do not compare; while the application was
    elsewhere, answers may have been removed that are still here."""
    return f"{embedder} generation {config.generation}"


def limits(config: pb.ReplicaConfig) -> Limits:
    cache, usual = config.semantic_cache, Limits()
    return Limits(
        max_entries=cache.max_entries or usual.max_entries,
        max_bytes=cache.max_bytes or usual.max_bytes,
        max_answer_bytes=cache.max_answer_bytes or usual.max_answer_bytes,
        ttl_s=cache.ttl_s or usual.ttl_s,
        evict="lfu" if cache.evict == "lfu" else "lru",
    )


def options(config: pb.ReplicaConfig) -> CacheOptions:
    cache, usual, rules = config.semantic_cache, CacheOptions(), ScopeRules()
    return CacheOptions(
        threshold=cache.threshold if cache.HasField("threshold") else usual.threshold,
        without_guards=frozenset(cache.without_guards),
        error_bound=cache.error_bound or None,
        rules=ScopeRules(
            max_temperature=cache.max_temperature if cache.HasField("max_temperature") else rules.max_temperature,
            per_user=cache.per_user,
        ),
    )


def endpoint(config: pb.ReplicaConfig, report: pb.ReplicaReport, node: str) -> pb.Endpoint:
    """The record of a ready replica at the address of its report. It serves no model of its own."""
    record = common.endpoint(config, report, pb.ModelRecord(), node, protocol=PROTOCOL_SEMANTIC_CACHE_HTTP)
    del record.models[:]
    record.before.extend(config.semantic_cache.before)
    return record
