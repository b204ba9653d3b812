"""What an embedding model is told in a spec: what users write, how it is read, and the record of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from serving._proto import records_pb2 as pb
from serving.sdk._artifacts import ARTIFACT, Artifact, artifact_record
from serving.sdk._table import Either, Field, PathText, Record, Text, Whole

EMBEDDING: Final = Record(
    "embedding",
    (
        Field(
            "weights",
            Either(ARTIFACT, PathText()),
            "The folder of a BERT encoder, relative to this file, or an artifact; without it all-MiniLM-L6-v2.",
        ),
        Field("model", Text(), "The name by which clients ask for it; without it the deployment's.", default=""),
        Field("precision", Text(), "Of the weights: int8 or f32.", default=""),
        Field("max_tokens", Whole(), "Of one text; 0 is the model's own limit.", default=0),
        Field("too_long", Text(), "What becomes of a text with more: refuse or cut.", default=""),
        Field("threads", Whole(), "That compute; 0 is the CPUs that the process may use.", default=0),
        Field("max_batch_inputs", Whole(), "Texts that are computed together; 0 is 64.", default=0),
        Field("max_batch_tokens", Whole(), "Their tokens; 0 is 512.", default=0),
        Field("max_requests", Whole(), "Requests that run or wait in a replica; 0 is 1024.", default=0),
        Field("max_waiting_tokens", Whole(), "Tokens of texts that wait in a replica; 0 is 262144.", default=0),
    ),
)


def embedding_record(values: Mapping[str, Any], artifacts: Mapping[Path, Artifact]) -> pb.EmbeddingDeployment:
    """The record of what `EMBEDDING` read."""
    weights = artifact_record(values["weights"], artifacts) if values["weights"] else None
    return pb.EmbeddingDeployment(
        weights=weights, **{name: values[name] for name in EMBEDDING.names if name != "weights"}
    )
