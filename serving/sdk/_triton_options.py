"""What the embedded Triton of a deployment is told: how it is read, the record of it, and its own options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from serving._proto import records_pb2 as pb
from serving.sdk._artifacts import ARTIFACT, Artifact, artifact_record
from serving.sdk._ingress_options import BUSY_POLL
from serving.sdk._table import BYTES, Either, Field, ListOf, MapOf, PathText, Record, Text, Whole, Word
from serving.validation import MODEL_CONTROLS, RATE_LIMITER_MODES, UPDATES


@dataclass(frozen=True, slots=True)
class ResponseCache:
    """Answers of models with `response_cache { enable: true }` in their configuration are kept and given again.

    `size`: bytes of each replica's memory, a number or `"64Mi"`, taken when it starts. `type`: only `"local"`, the
    replica's own memory.
    """

    size: int | str
    type: str = "local"


@dataclass(frozen=True, slots=True)
class RateLimiterResource:
    """So much of a resource there is: on each device, or on the one with the number `device`.

    Of a resource that models call global there is one `count` for the whole replica.
    """

    name: str
    count: int
    device: int | None = None


@dataclass(frozen=True, slots=True)
class RateLimiter:
    """Instances of models run as the `rate_limiter` of their instance groups says: resources and priorities.

    `resources` are all there are; without any there is as much of each as the neediest instance wants. `mode`: only
    `"execution_count"`.
    """

    resources: tuple[RateLimiterResource, ...] = ()
    mode: str = "execution_count"


RESPONSE_CACHE: Final = Record(
    "a response cache",
    (
        Field("size", BYTES, "Memory of each replica for it: 64Mi.", required=True),
        Field("type", Text(), "Where answers are kept: local is the replica's own memory.", default="local"),
    ),
)

_RESOURCE: Final = Record(
    "a resource",
    (
        Field("name", Text(), "As instance groups name it.", required=True),
        Field("count", Whole(), "How much of it there is.", required=True),
        Field("device", Whole(), "Only on the device of this number; without it on each."),
    ),
)
RATE_LIMITER: Final = Record(
    "a rate limiter",
    (
        Field("resources", ListOf(_RESOURCE), "What instances compete for.", default=()),
        Field(
            "mode",
            Text(allowed=RATE_LIMITER_MODES),
            "execution_count: by priority and number of executions.",
            default="execution_count",
        ),
    ),
)


TRITON: Final = Record(
    "triton",
    (
        Field(
            "repository",
            Either(ARTIFACT, PathText()),
            "A local folder in Triton's repository layout, relative to this file, or an artifact with uri and digest.",
            required=True,
        ),
        Field("models", ListOf(Text()), "Models to load; empty loads every model of the repository.", default=()),
        Field("backends", MapOf(MapOf(Word())), "Settings by backend.", default={}),
        Field("event_loops", Whole(), "Threads of the ingress; 0 lets the replica choose.", default=0),
        Field("max_message_bytes", BYTES, "Largest request: 64Mi; 0 is 2 GiB - 1.", default=0),
        Field("max_requests", Whole(), "Requests that run or wait in a replica; 0 is 10000.", default=0),
        BUSY_POLL,
        Field("log_verbosity", Whole(), "Triton's verbose level, 0 is off.", default=0),
        Field(
            "model_control",
            Text(allowed=MODEL_CONTROLS),
            "explicit lets every client load and unload models, with code of its own; none does not.",
            default="none",
        ),
        Field(
            "update",
            Text(allowed=UPDATES),
            "How a revision with other models only is rolled out: replace starts new replicas, in_place loads the "
            "models in running ones.",
            default="replace",
        ),
        Field("response_cache", RESPONSE_CACHE, "Keeps the answers of models that ask for it; without it none."),
        Field("rate_limiter", RATE_LIMITER, "Heeds what instance groups say of resources and priorities."),
    ),
)


def response_cache_record(values: Mapping[str, Any] | None) -> pb.ResponseCache | None:
    """The record of what `RESPONSE_CACHE` read; None where nothing was written."""
    if values is None:
        return None
    return pb.ResponseCache(type=values["type"], size_bytes=values["size"])


def rate_limiter_record(values: Mapping[str, Any] | None) -> pb.RateLimiter | None:
    """The record of what `RATE_LIMITER` read; None where nothing was written."""
    if values is None:
        return None
    resources = [pb.RateLimiterResource(**entry) for entry in values["resources"]]
    return pb.RateLimiter(mode=values["mode"], resources=resources)


def triton_record(values: Mapping[str, Any], artifacts: Mapping[Path, Artifact]) -> pb.TritonDeployment:
    return pb.TritonDeployment(
        repository=artifact_record(values["repository"], artifacts),
        models=values["models"],
        backends={name: pb.BackendSettings(settings=settings) for name, settings in values["backends"].items()},
        event_loops=values["event_loops"],
        max_message_bytes=values["max_message_bytes"],
        max_requests=values["max_requests"],
        busy_poll_us=values["busy_poll_us"],
        log_verbosity=values["log_verbosity"],
        # The default is left out, so that a spec that does not name it stays the revision that it is.
        model_control="" if values["model_control"] == "none" else values["model_control"],
        update="" if values["update"] == "replace" else values["update"],
        response_cache=response_cache_record(values["response_cache"]),
        rate_limiter=rate_limiter_record(values["rate_limiter"]),
    )
