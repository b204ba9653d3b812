"""What a replica of a language model reads from its `ReplicaConfig`, and the record that it registers. Pure."""

from __future__ import annotations

import hashlib
from typing import Final

from serving._proto import records_pb2 as pb
from serving.llm.engine import OPENVINO, Capabilities
from serving.llm.limits import DEFAULT_REQUESTS
from serving.python_deployment import settings as common
from serving.types import PROTOCOL_OPENAI_HTTP

DEFAULT_ENGINE: Final = OPENVINO
_NO_PREFIXES: Final = -1


def model_name(config: pb.ReplicaConfig) -> str:
    """By which clients ask for it."""
    return config.llm.model or config.deployment


def content(config: pb.ReplicaConfig) -> str:
    """Digest of what makes answers: replicas that have the same answer the same, whatever their revisions are."""
    llm = config.llm
    made_of = [llm.weights.digest, llm.engine or DEFAULT_ENGINE, llm.options]
    return hashlib.sha256("\0".join(made_of).encode()).hexdigest()


def endpoint(config: pb.ReplicaConfig, report: pb.ReplicaReport, node: str, capabilities: Capabilities) -> pb.Endpoint:
    """The record of a ready replica at the address of its report."""
    model = pb.ModelRecord(name=model_name(config), versions=[str(report.revision)])
    record = common.endpoint(config, report, model, node, protocol=PROTOCOL_OPENAI_HTTP)
    record.content = content(config)
    record.load.max_concurrency = config.llm.max_requests or DEFAULT_REQUESTS
    record.load.prefix_cache_tokens = capabilities.cache_tokens if capabilities.prefix_cache else _NO_PREFIXES
    record.load.computed_at_once = capabilities.at_once
    if config.llm.HasField("routing"):
        record.llm_routing.CopyFrom(config.llm.routing)
    return record
