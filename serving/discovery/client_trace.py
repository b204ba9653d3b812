"""W3C trace context (`traceparent`) from the caller's context to each attempt."""

from __future__ import annotations

import re
from contextvars import ContextVar
from random import getrandbits
from typing import Final

HEADER: Final = "traceparent"
current_traceparent: ContextVar[str] = ContextVar("current_traceparent", default="")
"""Set it where a request enters, and calls made from there carry the same trace id."""

_FORM: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-([0-9a-f]{2})")


def child_of(traceparent: str) -> str:
    """A new span of the given trace; of a new, unsampled trace when there is none or it is malformed."""
    match = _FORM.fullmatch(traceparent) if traceparent else None
    span = getrandbits(64) | 1
    if match is None or match.group(1) == "0" * 32:
        return f"00-{getrandbits(128) | 1:032x}-{span:016x}-00"
    return f"00-{match.group(1)}-{span:016x}-{match.group(2)}"
