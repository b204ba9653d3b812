"""What makes the `embedding` part of a spec valid, and what of the mesh's own it cannot be combined with yet. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from serving._proto import records_pb2 as pb
from serving.embedding.options import (
    DEFAULT_BATCH_INPUTS,
    DEFAULT_BATCH_TOKENS,
    DEFAULT_REQUESTS,
    DEFAULT_WAITING_TOKENS,
    MIN_TOKENS,
    PRECISIONS,
    TOO_LONG,
)
from serving.problems import Problem, check_whole, shown
from serving.validation.llm import MAX_TOKENS, model_name_problems
from serving.validation.python import MAX_REQUESTS, MAX_THREADS

MAX_BATCH: Final = 1 << 20


def embedding_problems(path: str, deployment: pb.DeploymentSpec) -> Iterator[Problem]:
    """Everything but its artifact, which is like that of other kinds. `path` is the deployment's."""
    embedding, here = deployment.embedding, f"{path}.embedding"
    yield from model_name_problems(f"{here}.model", embedding.model)
    for field, allowed in (("precision", PRECISIONS), ("too_long", TOO_LONG)):
        value = getattr(embedding, field)
        if value and value not in allowed:
            yield Problem(f"{here}.{field}", f"{shown(value)} is not known", allowed=allowed)
    if 0 < embedding.max_tokens < MIN_TOKENS:
        text = f"{embedding.max_tokens} leaves no room beside the special tokens; at least {MIN_TOKENS}, or 0"
        yield Problem(f"{here}.max_tokens", text)
    for field, high, note in (
        ("max_tokens", MAX_TOKENS, "the model's own limit"),
        ("threads", MAX_THREADS, "the CPUs that the process may use"),
        ("max_batch_inputs", MAX_BATCH, f"the default of {DEFAULT_BATCH_INPUTS}"),
        ("max_batch_tokens", MAX_BATCH, f"the default of {DEFAULT_BATCH_TOKENS}"),
        ("max_requests", MAX_REQUESTS, f"the default of {DEFAULT_REQUESTS}"),
        ("max_waiting_tokens", MAX_TOKENS, f"the default of {DEFAULT_WAITING_TOKENS}"),
    ):
        yield from check_whole(f"{here}.{field}", getattr(embedding, field), 0, high, f"; 0 is {note}")
