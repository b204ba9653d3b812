"""From what went wrong in user code to what the client is told."""

from __future__ import annotations

import logging
import secrets
from typing import Final

from serving.errors import Internal, MeshError

_LOG: Final = logging.getLogger("serving.python_deployment.user")
MAX_TEXT: Final = 2000  # a status travels in headers, which clients bound at 8 KiB


def at_edge(error: Exception, what: str) -> MeshError:
    """An error of `serving.errors` goes as it is; any other is a fault of ours, which is logged and not shown."""
    if isinstance(error, MeshError):
        return error
    name = secrets.token_hex(8)
    _LOG.error("internal failure", exc_info=error, extra={"id": name, "where": what})
    return Internal(f"internal error, logged as {name}")


def told(error: BaseException, what: str, *, traceparent: str = "") -> MeshError:
    """An error of `serving.errors` goes as it is; any other is INTERNAL with its type and text, and is logged."""
    if isinstance(error, MeshError):
        return error
    name = secrets.token_hex(8)
    _LOG.error(
        "user code failed",
        exc_info=error,
        extra={
            "id": name,
            "what": what,
            "trace_id": traceparent.split("-")[1] if traceparent.count("-") == 3 else None,
        },
    )
    return Internal(f"{what} failed: {described(error)} (logged as {name})")


def described(error: BaseException) -> str:
    """Type and text in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:MAX_TEXT]}" if text else type(error).__name__
