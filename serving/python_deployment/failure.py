"""From what went wrong in user code to what the client is told."""

from __future__ import annotations

import logging
import re
import secrets
from typing import Final

from serving.errors import Internal, MeshError, ResourceExhausted, Unavailable

_LOG: Final = logging.getLogger("serving.python_deployment.user")
_MAX_TEXT: Final = 2000  # characters of one error
_MAX_STATUS: Final = 6 * 1024  # bytes: a status travels in headers, which clients bound at 8 KiB


def at_edge(error: Exception, what: str, log: logging.Logger | None = None) -> MeshError:
    """An error of `serving.errors` goes as it is; any other is a fault of ours, which is logged and not shown."""
    if isinstance(error, MeshError):
        return error
    name = secrets.token_hex(8)
    (log or _LOG).error("internal failure", exc_info=error, extra={"id": name, "where": what})
    return Internal(f"internal error, logged as {name}")


class CalledUnavailable(Unavailable):
    """What a handle raises when the deployment that it calls is not available."""


class CalledExhausted(ResourceExhausted):
    """What a handle raises when the deployment that it calls is full."""


def called(error: MeshError) -> MeshError:
    """An error of another deployment, so that it can be told from one of this deployment's own."""
    if isinstance(error, ResourceExhausted):
        return CalledExhausted(error.message)
    return CalledUnavailable(error.message) if isinstance(error, Unavailable) else error


# Clients read these as "never begun" (serving/discovery/client_verdict.py, cpp_ext/routing/verdict.cc) and send the
# request again, also one that may not run twice. Nothing that user code says means that.
_REFUSALS: Final = (
    (re.compile(r"draining", re.IGNORECASE), "leaving"),
    (re.compile(r"shutting down", re.IGNORECASE), "ending"),
    (re.compile(r"exceeds maximum queue size", re.IGNORECASE), "has a full queue"),
    (re.compile(r"\(not processed\)", re.IGNORECASE), "[not processed there]"),
)


def _as_begun(error: MeshError) -> MeshError:
    """The error of a request whose code has run: without the words and codes of a refusal."""
    outside = isinstance(error, CalledUnavailable | CalledExhausted)
    if not outside and not isinstance(error, Unavailable):
        return error
    text = f"a deployment that this one calls: {error.message}" if outside else error.message
    for words, others in _REFUSALS:
        text = words.sub(others, text)
    return error if text == error.message else Unavailable(text)


def told(error: BaseException, what: str, *, traceparent: str = "") -> MeshError:
    """An error of `serving.errors` keeps its code and words, unless they would say that no code has run.

    Any other is INTERNAL with its type and text, and is logged.
    """
    if isinstance(error, MeshError):
        return _as_begun(error)
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
    return f"{type(error).__name__}: {text[:_MAX_TEXT]}" if text else type(error).__name__


def status_text(text: str) -> str:
    """The beginning of it that fits, percent-encoded as gRPC sends it; what UTF-8 cannot say becomes `?`."""
    encoded = text.encode("utf-8", "replace")
    room = _MAX_STATUS
    for end, byte in enumerate(encoded):
        room -= 1 if 0x20 <= byte <= 0x7E and byte != ord("%") else 3
        if room < 0:
            return encoded[:end].decode("utf-8", "ignore")
    return encoded.decode()
