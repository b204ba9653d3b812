"""What makes the `batch` part of a spec valid. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from serving._proto import records_pb2 as pb
from serving.batch.runner.options import DEFAULT_CONCURRENCY, DEFAULT_MAX_ATTEMPTS, DEFAULT_WORKERS
from serving.problems import Problem, check_names, check_whole

MAX_CONCURRENCY: Final = 100
MAX_WORKERS: Final = 1000
MOST_ATTEMPTS: Final = 1000


def batch_problems(path: str, deployment: pb.DeploymentSpec) -> Iterator[Problem]:
    """`path` is the deployment's."""
    batch, here = deployment.batch, f"{path}.batch"
    for field, high, usual in (
        ("concurrency", MAX_CONCURRENCY, DEFAULT_CONCURRENCY),
        ("workers", MAX_WORKERS, DEFAULT_WORKERS),
        ("max_attempts", MOST_ATTEMPTS, DEFAULT_MAX_ATTEMPTS),
    ):
        yield from check_whole(f"{here}.{field}", getattr(batch, field), 0, high, f"; 0 is the default of {usual}")
    yield from check_names(f"{here}.namespaces", batch.namespaces)
    if batch.batch_id:
        yield Problem(f"{here}.batch_id", "is set by keepers only; order the batch with `mode: own`")
    if deployment.rollout.HasField("canary"):
        yield Problem(f"{path}.rollout.canary", "is not supported with `batch`: runners take their work themselves")
