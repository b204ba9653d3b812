"""What a runner reads from its `ReplicaConfig`, and the record that it registers. Pure."""

from __future__ import annotations

from serving._proto import records_pb2 as pb
from serving.batch.runner.options import DEFAULT_CONCURRENCY, DEFAULT_MAX_ATTEMPTS, DEFAULT_WORKERS
from serving.python_deployment import settings as common
from serving.types import PROTOCOL_BATCH_RUNNER, ROLE_RUNNER


def concurrency(config: pb.ReplicaConfig) -> int:
    """Batches at once."""
    return config.batch.concurrency or DEFAULT_CONCURRENCY


def workers(config: pb.ReplicaConfig) -> int:
    """Processes that send the requests of a batch."""
    return config.batch.workers or DEFAULT_WORKERS


def max_attempts(config: pb.ReplicaConfig) -> int:
    """That break one after the other without progress, until a batch fails."""
    return config.batch.max_attempts or DEFAULT_MAX_ATTEMPTS


def namespaces(config: pb.ReplicaConfig) -> frozenset[str]:
    """Tenants whose batches it takes; empty: all."""
    return frozenset(config.batch.namespaces)


def endpoint(config: pb.ReplicaConfig, report: pb.ReplicaReport, node: str) -> pb.Endpoint:
    """The record of a ready runner: nobody sends it requests, its address is that of its health service."""
    record = common.endpoint(config, report, pb.ModelRecord(), node, protocol=PROTOCOL_BATCH_RUNNER)
    del record.models[:]
    record.role = ROLE_RUNNER
    record.load.max_concurrency = concurrency(config)
    return record
