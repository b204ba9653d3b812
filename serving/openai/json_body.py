"""From the bytes of a body to a JSON object, within bounds; what is wrong is named with its place."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from serving.openai.errors import BodyTooLarge, InvalidRequest

MAX_DEPTH: Final = 64
MAX_VALUES: Final = 1 << 18  # of a body; as many tokens may a prompt have that is given as tokens
MAX_CONTAINERS: Final = 1 << 15  # arrays and objects among them: each costs thirty times what a number does
PARSED_APART: Final = 64 << 10  # bytes: larger bodies would keep an event loop from other requests
_READER: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mesh-json")  # its thread begins with the first
_WINDOW: Final = 64 << 10  # bytes that are looked at together
_BACKSLASH: Final = ord("\\")
# A surrogate that is escaped. Most are halves of a pair; one alone has no UTF-8, so nothing could be answered with it.
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")


def read_object(data: bytes, *, limit_bytes: int, max_depth: int = MAX_DEPTH) -> dict[str, Any]:
    """The object that a body holds.

    Raises `BodyTooLarge`, also for too many values, and `InvalidRequest` for what is not UTF-8, not JSON, no object,
    nested too deeply, has a key twice, or a number that no JSON number can be (NaN, Infinity, 1e999).
    """
    if len(data) > limit_bytes:
        raise BodyTooLarge(limit_bytes)
    _check_values(data, max_depth)
    text = _decoded(data)
    if not text.strip():
        raise _invalid("the body is empty; a JSON object is wanted")
    if text.startswith("\ufeff"):
        raise _invalid("the body is not JSON: it begins with a byte order mark (BOM)")
    try:
        value = (_DECODER if len(data) <= PARSED_APART else _DECODER_APART).decode(text)
    except InvalidRequest:
        raise
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise _invalid(f"the body is not JSON: {error.msg.lower()} ({place})") from error
    except ValueError as error:  # an integer of more digits than Python reads
        raise _invalid("the body has a number with too many digits") from error
    except RecursionError as error:
        raise _too_deep(max_depth) from error
    if not isinstance(value, dict):
        raise _invalid(f"the body is {_kind(value)}; a JSON object is wanted")
    if text.count("[") + text.count("{") > max_depth:
        _check_depth(value, max_depth)
    if _SURROGATE.search(text):
        _check_surrogates(value)
    return value


async def read_object_apart(data: bytes, *, limit_bytes: int) -> dict[str, Any]:
    """As `read_object`; a large body on a thread of its own, so that the event loop goes on meanwhile."""
    if len(data) <= PARSED_APART:
        return read_object(data, limit_bytes=limit_bytes)
    return await asyncio.get_running_loop().run_in_executor(_READER, lambda: read_object(data, limit_bytes=limit_bytes))


def _check_values(data: bytes, max_depth: int) -> None:
    """Before anything is made of them: a few megabytes of `[],[],[]` would take seconds and gigabytes."""
    if data.count(b",") + _openings(data, 0, len(data)) <= MAX_CONTAINERS:  # with those in texts
        return
    commas = containers = depth = at = 0
    while at < len(data):
        opening = data.find(b'"', at, at + _WINDOW)
        end = min(len(data), at + _WINDOW) if opening < 0 else opening
        begun = _openings(data, at, end)
        commas += data.count(b",", at, end)
        containers += begun
        depth += begun - data.count(b"]", at, end) - data.count(b"}", at, end)
        if depth > max_depth:
            raise _too_deep(max_depth)
        if commas + containers > MAX_VALUES:
            raise BodyTooLarge(MAX_VALUES, "values")
        if containers > MAX_CONTAINERS:
            raise BodyTooLarge(MAX_CONTAINERS, "arrays and objects")
        at = end if opening < 0 else _behind_string(data, opening + 1)


def _openings(data: bytes, start: int, end: int) -> int:
    return data.count(b"[", start, end) + data.count(b"{", start, end)


def _behind_string(data: bytes, at: int) -> int:
    """Behind the quote that ends the text which begins here; the end of a body where none does."""
    while (quote := data.find(b'"', at)) >= 0:
        first = quote
        while first > at and data[first - 1] == _BACKSLASH:
            first -= 1
        at = quote + 1
        if (quote - first) % 2 == 0:
            return at
    return len(data)


def _integer(text: str) -> int:
    """`int`, as a function of Python: another thread may run between two numbers, which it may not within `loads`."""
    return int(text)


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _invalid(f"the body is not UTF-8: {error.reason} at byte {error.start}") from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _invalid(f"the key {json.dumps(name[:100])} stands twice in one object")
            seen.add(name)
    return made


def _refuse_constant(name: str) -> float:
    raise _invalid(f"the body is not JSON: {name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _invalid(f"the number {text[:40]} is too large")
    return value


def _decoder(parse_int: Callable[[str], int]) -> json.JSONDecoder:
    """Made once: `json.loads` makes one for each call that says how."""
    return json.JSONDecoder(
        object_pairs_hook=_without_duplicates,
        parse_constant=_refuse_constant,
        parse_float=_finite,
        parse_int=parse_int,
    )


_DECODER: Final = _decoder(int)
_DECODER_APART: Final = _decoder(_integer)


def _check_depth(value: Any, max_depth: int) -> None:
    """Level by level, so that no depth can be too deep for the check itself."""
    level: list[Any] = [value]
    for _ in range(max_depth):
        children = (child for node in level for child in (node.values() if isinstance(node, dict) else node))
        level = [child for child in children if isinstance(child, dict | list)]
        if not level:
            return
    raise _too_deep(max_depth)


def _check_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise _invalid(
            "the body escapes half of a surrogate pair (\\ud800 to \\udfff), which is no character"
        ) from error


def _too_deep(max_depth: int) -> InvalidRequest:
    return _invalid(f"the body is nested deeper than {max_depth} levels")


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    return {bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "an array"}[type(value)]


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(message, error_code="invalid_json")
