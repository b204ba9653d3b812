"""What an embedding replica reads from its `ReplicaConfig`, and the records that it registers. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from serving._proto import records_pb2 as pb
from serving.embedding.batcher import BatchLimits
from serving.embedding.kserve import MODEL_VERSION
from serving.embedding.openvino_embedder import EmbedderOptions
from serving.embedding.options import (
    CUT,
    DEFAULT_BATCH_INPUTS,
    DEFAULT_BATCH_TOKENS,
    DEFAULT_REQUESTS,
    DEFAULT_WAITING_TOKENS,
    INT8,
    PRECISIONS,
    TOO_LONG,
)
from serving.errors import InvalidArgument
from serving.python_deployment import settings as common
from serving.types import PROTOCOL_OPENAI_HTTP

GRPC_SUFFIX: Final = "-grpc"  # of the id of the second endpoint


def model_name(config: pb.ReplicaConfig) -> str:
    """By which clients ask for it."""
    return config.embedding.model or config.deployment


def embedder_options(config: pb.ReplicaConfig, folder: Path | None, usable_cpus: int) -> EmbedderOptions:
    """Raises `InvalidArgument` for words that are not known."""
    embedding = config.embedding
    return EmbedderOptions(
        folder=folder,
        threads=embedding.threads or usable_cpus,
        int8=_word("precision", embedding.precision or INT8, PRECISIONS) == INT8,
        max_tokens=embedding.max_tokens or None,
        max_batch_tokens=embedding.max_batch_tokens or DEFAULT_BATCH_TOKENS,
    )


def cuts(config: pb.ReplicaConfig) -> bool:
    """Whether the end of a text that is too long is left out, where a request does not say it."""
    return _word("too_long", config.embedding.too_long or TOO_LONG[0], TOO_LONG) == CUT


def batch_limits(config: pb.ReplicaConfig) -> BatchLimits:
    embedding = config.embedding
    return BatchLimits(
        max_inputs=embedding.max_batch_inputs or DEFAULT_BATCH_INPUTS,
        max_tokens=embedding.max_batch_tokens or DEFAULT_BATCH_TOKENS,
        max_waiting_tokens=embedding.max_waiting_tokens or DEFAULT_WAITING_TOKENS,
    )


def max_requests(config: pb.ReplicaConfig) -> int:
    return config.embedding.max_requests or DEFAULT_REQUESTS


def endpoints(config: pb.ReplicaConfig, report: pb.ReplicaReport, node: str) -> tuple[pb.Endpoint, pb.Endpoint]:
    """The records of a ready replica: OpenAI's protocol at the report's address, KServe v2 at its health address."""
    model = pb.ModelRecord(name=model_name(config), versions=[MODEL_VERSION])
    http = common.endpoint(config, report, model, node, protocol=PROTOCOL_OPENAI_HTTP)
    grpc = common.endpoint(config, report, model, node)
    grpc.id = f"{config.id}{GRPC_SUFFIX}"
    grpc.address = report.health_address
    for record in (http, grpc):
        record.replica = config.id
        record.load.max_concurrency = max_requests(config)
    return http, grpc


def _word(field: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise InvalidArgument(f"embedding.{field}: `{value}` is not known (allowed: {', '.join(allowed)})")
    return value
