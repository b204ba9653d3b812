"""One request on its way through the client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from serving.discovery.client_peer import PeerKey
from serving.discovery.client_peers import Target
from serving.discovery.client_verdict import Verdict
from serving.errors import MeshError
from serving.routing import NO_SIDES, Traffic

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]


class Request:
    """What is sent, by when, and what was tried so far."""

    __slots__ = (
        "asked_elsewhere",
        "attempts",
        "deadline",
        "error",
        "hash_key",
        "metadata",
        "method",
        "payload",
        "retry_safe",
        "sequence",
        "sides",
        "target",
        "traffic",
        "tried",
    )

    def __init__(
        self, method: str, payload: bytes, deadline: float, target: Target, retry_safe: bool, metadata: Metadata
    ) -> None:
        self.method = method
        self.payload = payload
        self.deadline = deadline
        self.target = target
        self.retry_safe = retry_safe
        self.metadata = metadata
        self.attempts = 0
        self.asked_elsewhere = False
        self.hash_key = ""  # by which consistent hashing chooses
        self.sides = NO_SIDES  # of traffic splits, for all its attempts
        self.traffic: Traffic | None = None  # by which they were chosen
        self.sequence = ""  # the name of the sequence that it is part of
        self.tried: set[PeerKey] = set()
        self.error: MeshError | None = None


def sequence_of(request: Any) -> str:
    """The name of the sequence of an inference request, as proxies call it; "" for one that is of none."""
    message = getattr(request, "head", request)  # of `serving.sdk.tensors.InferRequest`
    if "sequence_id" not in message.parameters:
        return ""
    found = message.parameters["sequence_id"]
    text = found.string_param or (str(found.int64_param) if found.int64_param else "")
    return f"{message.model_name}\0{text}" if text else ""


class AttemptFailed(Exception):
    """An attempt failed: the error that the caller gets if it was the last one, and the verdict."""

    def __init__(self, error: MeshError, verdict: Verdict) -> None:
        super().__init__(error.message)
        self.error = error
        self.verdict = verdict
