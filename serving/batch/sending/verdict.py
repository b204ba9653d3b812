"""What an endpoint's word means for the row and for the endpoint. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from serving.batch.rows.request import RowFault
from serving.errors import SERVER_FAULTS, Code

_FULL: Final = frozenset({429, 503})
_AGAIN: Final = frozenset({408, 500, 502, 504})
_ERRORS: Final = 400
_NOT_FOUND: Final = 404
_LONGEST_REST_S: Final = 30.0
_SHOWN: Final = 500  # characters of what an endpoint says


class Next(Enum):
    ANSWER = "answer"  # also where it says what is wrong with the request
    LATER = "later"  # it has no room: the row was not begun, or not gone on with
    ELSEWHERE = "elsewhere"  # its fault, and the row may have been begun


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one attempt. `rest_s`: how long the endpoint wants to be left alone."""

    next: Next
    status: int = 0
    value: Any = None
    raw: bytes = b""
    request_id: str = ""
    fault: RowFault | None = None
    work: float = 1.0
    rest_s: float = 0.0
    unreachable: bool = False  # nobody listens there
    silent: bool = False  # it took the request, and said nothing for as long as anybody waits


def of_status(status: int) -> Next:
    """Of an HTTP answer."""
    if status in _FULL:
        return Next.LATER
    return Next.ELSEWHERE if status in _AGAIN else Next.ANSWER


def of_code(code: Code) -> Next:
    """Of a gRPC status."""
    if code in (Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE):
        return Next.LATER
    return Next.ELSEWHERE if code in SERVER_FAULTS or code in (Code.CANCELLED, Code.ABORTED) else Next.ANSWER


def says_unknown_model(reply: Reply) -> bool:
    """In the words of OpenAI, which gateways use, too."""
    return reply.status == _NOT_FOUND and reply.fault is not None and reply.fault.code == "model_not_found"


def fault_of(status: int, value: Any, raw: bytes) -> RowFault | None:
    """As OpenAI's error objects say it; None where the answer is none of an error."""
    if status < _ERRORS:
        return None
    error = value.get("error") if isinstance(value, Mapping) else None
    if not isinstance(error, Mapping):
        return RowFault(f"http_{status}", raw[:_SHOWN].decode("utf-8", "replace") or f"an answer of status {status}")
    code = error.get("code") or error.get("type") or f"http_{status}"
    return RowFault(str(code), str(error.get("message") or "")[:_SHOWN])


def rest_s(retry_after: str) -> float:
    """Of `Retry-After` in seconds (RFC 9110); 0 where nothing usable is said."""
    return min(float(retry_after), _LONGEST_REST_S) if retry_after.isascii() and retry_after.isdigit() else 0.0
