"""What a caller asked for, made a request, or refused."""

from __future__ import annotations

import time
from typing import Any, Final

from serving.discovery.client_metadata import prepared
from serving.discovery.client_peer import METHODS
from serving.discovery.client_peers import Target
from serving.discovery.client_request import Metadata, Request
from serving.errors import InvalidArgument, NotSupported

MAX_TIMEOUT_S: Final = 30 * 24 * 3600.0


def checked(
    method: str, request: Any, timeout_s: float, retry_safe: bool, target: Target, metadata: Metadata
) -> Request:
    """The request to send. Raises `NotSupported` and `InvalidArgument`."""
    if method not in METHODS:
        raise NotSupported(f"the inference client has no method {method} (known: {', '.join(METHODS)})")
    if not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise InvalidArgument(f"timeout_s is {timeout_s}, it must be more than 0, at most {MAX_TIMEOUT_S}")
    deadline = time.monotonic() + timeout_s
    return Request(method, request.SerializeToString(), deadline, target, retry_safe, prepared(metadata))
