"""How items are written in a stream: JSON arrays, as the index has them. Pure but for the index."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from serving.broker import journal_schema as schema
from serving.broker.journal_changes import Change

CALLBACK_FIELDS: Final = ("round", "receiver", *schema.CALLBACK_COLUMNS)
COLUMNS_TEXT: Final = ",".join((*schema.COLUMNS, *(f"callback.{name}" for name in CALLBACK_FIELDS)))
_SLICE: Final = 500


def arguments(index: sqlite3.Connection, changes: Sequence[Change]) -> list[Any]:
    """Of `APPEND`, for each change; the index has them already. Raises errors of SQLite."""
    numbers = [change.number for change in changes if not change.remove]
    items = _rows(index, f"SELECT {', '.join(schema.COLUMNS)} FROM items", numbers)
    callbacks = _rows(index, f"SELECT number, {', '.join(CALLBACK_FIELDS)} FROM callbacks", numbers)
    given: list[Any] = []
    for change in changes:
        if change.remove:
            given += (change.number, "", "")
            continue
        row = items.get(change.number)
        if row is None:  # it was changed after it was removed; nothing may be kept of it
            given += (change.number, "", "")
            continue
        callback = callbacks.get(change.number)
        text = json.dumps([*row, callback[1:] if callback is not None else None], ensure_ascii=False)
        bodies = [body for body in (change.request, change.result) if body is not None]
        given += (change.number, text, _bodies(change), *bodies)
    return given


def _bodies(change: Change) -> str:
    marks = (("q", change.request is not None), ("r", change.result is not None), ("d", change.drop_request))
    return "".join(mark for mark, is_set in marks if is_set)


def _rows(index: sqlite3.Connection, select: str, numbers: Sequence[int]) -> Mapping[int, tuple[Any, ...]]:
    found: dict[int, tuple[Any, ...]] = {}
    for at in range(0, len(numbers), _SLICE):
        part = numbers[at : at + _SLICE]
        marks = ",".join("?" * len(part))
        found.update((row[0], row) for row in index.execute(f"{select} WHERE number IN ({marks})", part))
    return found


Parsed: TypeAlias = "tuple[tuple[Any, ...], tuple[Any, ...] | None]"
"""An item's row, of `schema.COLUMNS`, and its callback's: number, `CALLBACK_FIELDS`."""


def parsed(texts: Sequence[bytes]) -> list[Parsed]:
    """Of each, read together: a million of them read one by one take seconds more. Raises `ValueError`."""
    found = json.loads(b"[%b]" % b",".join(texts))
    if len(found) != len(texts):
        raise ValueError("a text has more than one item")
    return [_parsed(values) for values in found]


def _parsed(values: Any) -> Parsed:
    if not isinstance(values, list) or len(values) != len(schema.COLUMNS) + 1:
        raise ValueError("an item has another number of values")
    callback = values.pop()
    row = tuple(values)
    if callback is None:
        return row, None
    if len(callback) != len(CALLBACK_FIELDS):
        raise ValueError("a callback has another number of values")
    return row, (row[0], *callback)
