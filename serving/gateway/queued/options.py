"""What the headers of a submission say of the item. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from serving._proto import broker_pb2 as bpb
from serving.openai.errors import InvalidRequest
from serving.openai.openapi import Header

KEY: Final = "idempotency-key"
PRIORITY: Final = "x-mesh-priority"
DEADLINE: Final = "x-mesh-deadline-s"
EXPECTED: Final = "x-mesh-expected-s"
RESULT_TTL: Final = "x-mesh-result-ttl-s"
LABELS: Final = "x-mesh-labels"
MAX_LABELS: Final = 14  # of the broker's 16, two are ours
OWN_LABELS: Final = "mesh-"
_MAX_KEY: Final = 256  # bytes
_MAX_LABEL: Final = 64  # bytes
_LONGEST_S: Final = 366 * 24 * 3600.0
_PRIORITIES: Final = {"": bpb.DEFAULT, "low": bpb.LOW, "default": bpb.DEFAULT, "high": bpb.HIGH}
_SECONDS: Final = r"[0-9]{1,8}(\.[0-9]{1,6})?"
_SECONDS_PATTERN: Final = f"^({_SECONDS})?$"
_KEY_PATTERN: Final = f"^[!-~]{{0,{_MAX_KEY}}}$"
HEADERS: Final = (
    Header(KEY, "Whoever submits it again gets the first one's answer, for as long as the item is kept.", _KEY_PATTERN),
    Header(PRIORITY, "What waits long rises.", "^(low|default|high)?$"),
    Header(DEADLINE, "Seconds from now, after which it is not started, and stopped where it runs.", _SECONDS_PATTERN),
    Header(EXPECTED, "Seconds that it will take, as far as is known.", _SECONDS_PATTERN),
    Header(RESULT_TTL, "Seconds for which its result is kept.", _SECONDS_PATTERN),
    Header(LABELS, "`name=value, ...`, for lists and to foresee how long it takes."),
)


@dataclass(frozen=True, slots=True)
class ItemOptions:
    """Times in seconds, 0: not said."""

    key: str = ""
    priority: bpb.Priority = bpb.DEFAULT
    deadline_s: float = 0.0
    expected_s: float = 0.0
    result_ttl_s: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)


def read_options(header: Callable[[bytes], str]) -> ItemOptions:
    """`header` gives the value of one, "" where it was not sent. Raises `InvalidRequest` that names it."""

    def said(name: str) -> str:
        return header(name.encode())

    priority = _PRIORITIES.get(said(PRIORITY))
    if priority is None:
        raise _wrong(PRIORITY, "low, default or high", said(PRIORITY))
    key = said(KEY)
    if not re.fullmatch(_KEY_PATTERN, key):
        raise _wrong(KEY, f"at most {_MAX_KEY} visible letters of ASCII", key)
    deadline_s, expected_s, result_ttl_s = (_seconds(name, said(name)) for name in (DEADLINE, EXPECTED, RESULT_TTL))
    return ItemOptions(key, priority, deadline_s, expected_s, result_ttl_s, _labels(said(LABELS)))


def _seconds(name: str, text: str) -> float:
    if not text:
        return 0.0
    if not re.fullmatch(_SECONDS, text) or not 0 < float(text) <= _LONGEST_S:
        raise _wrong(name, f"seconds above 0 and up to {_LONGEST_S:.0f}, such as 30 or 0.5", text)
    return float(text)


def _labels(text: str) -> dict[str, str]:
    labels: dict[str, str] = {}
    for pair in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not name or name in labels or max(len(name.encode()), len(value.encode())) > _MAX_LABEL:
            raise _wrong(LABELS, f"`name=value, ...` with each name once, of at most {_MAX_LABEL} bytes each", pair)
        if name.startswith(OWN_LABELS):
            raise _wrong(LABELS, f"names that do not begin with `{OWN_LABELS}`", name)
        labels[name] = value
    if len(labels) > MAX_LABELS:
        raise _wrong(LABELS, f"at most {MAX_LABELS}", str(len(labels)))
    return labels


def _wrong(name: str, wanted: str, found: str) -> InvalidRequest:
    return InvalidRequest(
        f"the header `{name}`: wanted is {wanted}; found {found[:40]!r}", param=name, error_code="invalid_value"
    )
