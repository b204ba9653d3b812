"""What the queries of these paths say. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final
from urllib.parse import parse_qsl

from starlette.types import Scope

from serving.openai.errors import InvalidRequest

MOST_WAIT_S: Final = 60.0
SECONDS: Final = r"[0-9]{1,4}(\.[0-9]{1,6})?"
_NUMBER: Final = re.compile(r"[0-9]{1,15}")


def fields(scope: Scope, known: Collection[str]) -> dict[str, str]:
    """Raises `InvalidRequest` for one that is not `known`, or stands there twice."""
    pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    found = dict(pairs)
    for name in found:
        if name not in known:
            raise _wrong(name, f"only {', '.join(known)}", name)
    if len(found) != len(pairs):
        raise InvalidRequest("a parameter of the query stands there twice", error_code="invalid_value")
    return found


def wait_s(query: dict[str, str]) -> float:
    """`wait`: how long to wait for the end."""
    text = query.get("wait", "0")
    if not re.fullmatch(SECONDS, text) or float(text) > MOST_WAIT_S:
        raise _wrong("wait", f"seconds from 0 to {MOST_WAIT_S:.0f}", text)
    return float(text)


def flag(query: dict[str, str], name: str) -> bool:
    text = query.get(name, "false")
    if text not in ("true", "false"):
        raise _wrong(name, "true or false", text)
    return text == "true"


def number(query: dict[str, str], name: str) -> int | None:
    """None where it is not there."""
    text = query.get(name)
    if text is None:
        return None
    if not _NUMBER.fullmatch(text):
        raise _wrong(name, "a whole number from 0 on", text)
    return int(text)


def _wrong(name: str, wanted: str, found: str) -> InvalidRequest:
    return InvalidRequest(
        f"the query's `{name[:40]}`: wanted is {wanted}; found {found[:40]!r}",
        param=name[:40],
        error_code="invalid_value",
    )
