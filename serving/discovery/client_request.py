"""One request on its way through the client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from serving.discovery.client_peer import PeerKey
from serving.discovery.client_peers import Target
from serving.discovery.client_verdict import Verdict
from serving.errors import MeshError

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
        "target",
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
        self.tried: set[PeerKey] = set()
        self.error: MeshError | None = None


class AttemptFailed(Exception):
    """An attempt failed: the error that the caller gets if it was the last one, and the verdict."""

    def __init__(self, error: MeshError, verdict: Verdict) -> None:
        super().__init__(error.message)
        self.error = error
        self.verdict = verdict
