"""What a language model is told in a spec: what users write, how it is read, and the record of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from serving._proto import records_pb2 as pb
from serving.hub_name import is_hub_name
from serving.routing.llm_routing import LLM_CHOICES, SESSION_KEYS
from serving.sdk._artifacts import ARTIFACT, Artifact, artifact_record
from serving.sdk._table import (
    SECONDS,
    AnyValue,
    Either,
    Field,
    ListOf,
    MapOf,
    Number,
    PathText,
    Record,
    Text,
    Whole,
    json_text,
)

_ROUTING: Final = Record(
    "routing",
    (
        Field("choice", Text(allowed=LLM_CHOICES), "How a gateway chooses a replica; without it prefix."),
        Field(
            "session_keys",
            ListOf(Text(allowed=SESSION_KEYS)),
            "Where a request says to which session it belongs; without it x-mesh-session and prompt_cache_key.",
        ),
        Field(
            "overload_tokens",
            Whole(),
            "More than the least busy replica has: prefixes and sessions do not count then; 0 is 8192.",
        ),
        Field("answer_weight", Number(), "Of a token of an expected answer, to one of a prompt; without it 1."),
    ),
)
LLM: Final = Record(
    "llm",
    (
        Field(
            "weights",
            Either(ARTIFACT, PathText()),
            "The folder of the model, relative to this file, an artifact, or hub://owner/name@commit.",
            required=True,
        ),
        Field("model", Text(), "The name by which clients ask for it; without it the deployment's.", default=""),
        Field("engine", Text(), "openvino (CPUs) or vllm (GPUs).", default=""),
        Field("options", MapOf(AnyValue()), "Of the engine, such as cache_mb or threads.", default={}),
        Field("max_requests", Whole(), "Requests that run or wait in a replica; 0 is 256.", default=0),
        Field("max_waiting_tokens", Whole(), "Tokens of prompts that wait in a replica; 0 is 262144.", default=0),
        Field("max_wait", SECONDS, "The longest foreseen wait for a first token; 0 is 60s.", default=0.0),
        Field("routing", _ROUTING, "How gateways send requests to replicas; without it the defaults."),
    ),
)


def llm_record(values: Mapping[str, Any], artifacts: Mapping[Path, Artifact]) -> pb.LlmDeployment:
    """The record of what `LLM` read."""
    return pb.LlmDeployment(
        weights=_weights(values["weights"], artifacts) if values["weights"] else None,
        model=values["model"],
        engine=values["engine"],
        options=json_text(values["options"]),
        max_requests=values["max_requests"],
        max_waiting_tokens=values["max_waiting_tokens"],
        max_wait_s=values["max_wait"],
        routing=_routing(values["routing"]),
    )


def _routing(values: Mapping[str, Any] | None) -> pb.LlmRouting | None:
    given = {
        name: value
        for name, value in (values or {}).items()
        if value or (name == "answer_weight" and value is not None)
    }
    return pb.LlmRouting(**given) if given else None


def _weights(weights: str | Mapping[str, Any], artifacts: Mapping[Path, Artifact]) -> pb.Artifact:
    return pb.Artifact(uri=weights) if is_hub_name(weights) else artifact_record(weights, artifacts)
