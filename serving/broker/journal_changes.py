"""What is written to a journal together, and the statements that do it.

A statement changes many rows: each costs the writing thread Python's global lock once, for which it waits while the
event loop is busy.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from serving.broker import journal_schema as schema
from serving.broker.items import Item
from serving.broker.large_results import LARGE_BYTES

_CHUNKS: Final = (64, 16, 4, 1)  # rows of one statement


@dataclass(slots=True)
class Change:
    """What is written together for one item. `insert` and `update` are rows of it, `request` and `result` bodies, the
    result of `attempt` in a file if it `is_large`, which `drop_file` removes; `callback_due` (number, receiver, and
    twice since when) and `callback` (`schema.CALLBACK_COLUMNS`) of its callback.

    `items` and `size` (bytes) are what the totals change by. Make them with `submitted`, `changed` and `removed`.
    """

    number: int
    insert: tuple[Any, ...] | None = None
    update: tuple[Any, ...] | None = None
    attempt: int = 0
    remove: bool = False
    drop_file: bool = False
    request: bytes | None = None
    result: bytes | None = None
    drop_request: bool = False
    callback_due: tuple[Any, ...] | None = None
    callback: tuple[Any, ...] | None = None
    drop_callback: bool = False
    items: int = 0
    size: int = 0

    @classmethod
    def submitted(cls, item: Item, request: bytes) -> Change:
        row = schema.first_values(item) + schema.changing_values(item)
        return cls(item.number, insert=row, request=request, items=1, size=item.kept_bytes)

    @classmethod
    def changed(cls, before: Item, after: Item, result: bytes | None = None) -> Change:
        """To another state; the request goes when there is a result. An end makes its callback due."""
        row = (after.number, *schema.changing_values(after))
        due = withdrawn = None
        if after.callback is not None and before.state.live and after.calls_back:
            due = (after.number, after.callback.receiver, after.ended, after.ended)
        elif after.callback is not None and after.state.live and not before.state.live:
            withdrawn = (after.number, *schema.NO_CALLBACK)
        return cls(
            after.number, update=row, attempt=after.attempt, result=result, drop_request=after.state.answered,
            callback_due=due, callback=withdrawn, size=after.kept_bytes - before.kept_bytes,
        )  # fmt: skip

    @classmethod
    def called_back(cls, item: Item, callback: tuple[Any, ...]) -> Change:
        """Of its callback, and of when the item is forgotten."""
        return cls(item.number, update=(item.number, *schema.changing_values(item)), callback=callback)

    @classmethod
    def removed(cls, item: Item) -> Change:
        return cls(
            item.number, attempt=item.attempt, remove=True, drop_request=not item.state.answered,
            drop_file=item.state.answered and item.result_bytes > LARGE_BYTES,
            drop_callback=item.callback is not None, items=-1, size=-item.kept_bytes,
        )  # fmt: skip

    @property
    def is_large(self) -> bool:
        return self.result is not None and len(self.result) > LARGE_BYTES

    @property
    def body_bytes(self) -> int:
        return len(self.request or b"") + len(self.result or b"")


def apply(database: sqlite3.Connection, changes: Sequence[Change]) -> None:
    """Inside of a transaction. Raises errors of SQLite."""
    _run(database, "insert", [change.insert for change in changes if change.insert is not None])
    _run(database, "request", [(change.number, change.request) for change in changes if change.request is not None])
    _run(database, "update", [change.update for change in changes if change.update is not None])
    results = [change for change in changes if change.result is not None and not change.is_large]
    _run(database, "result", [(change.number, change.result) for change in results])
    _run(database, "drop_request", [(change.number,) for change in changes if change.drop_request])
    removed = [(change.number,) for change in changes if change.remove]
    _run(database, "callback_due", [change.callback_due for change in changes if change.callback_due is not None])
    _run(database, "callback", [change.callback for change in changes if change.callback is not None])
    _run(database, "drop_result", removed)
    _run(database, "drop_callback", [(change.number,) for change in changes if change.drop_callback])
    _run(database, "remove", removed)


def _run(database: sqlite3.Connection, kind: str, rows: Sequence[tuple[Any, ...]]) -> None:
    at = 0
    for size in _CHUNKS:
        while len(rows) - at >= size:
            database.execute(_statement(kind, size), [value for row in rows[at : at + size] for value in row])
            at += size


_DROPPED: Final = {
    "drop_request": "requests", "drop_result": "results", "drop_callback": "callbacks", "remove": "items",
}  # fmt: skip
_WIDTHS: Final = {
    "insert": len(schema.COLUMNS), "update": 1 + len(schema.CHANGING_COLUMNS), "request": 2, "result": 2,
    "callback": 1 + len(schema.CALLBACK_COLUMNS),
}  # fmt: skip


@cache
def _statement(kind: str, rows: int) -> str:
    row = f"({','.join('?' * _WIDTHS.get(kind, 1))})"
    values = ",".join([row] * rows)
    if kind == "insert":
        return f"INSERT INTO items ({','.join(schema.COLUMNS)}) VALUES {values}"
    if kind in ("update", "callback"):
        into, columns = (
            ("items", schema.CHANGING_COLUMNS) if kind == "update" else ("callbacks", schema.CALLBACK_COLUMNS)
        )
        pairs = ",".join(f"{name}=v.column{index}" for index, name in enumerate(columns, 2))
        return f"UPDATE {into} SET {pairs} FROM (VALUES {values}) AS v WHERE {into}.number = v.column1"
    if kind == "callback_due":
        return schema.CALLBACK_DUE.format(values=",".join([schema.CALLBACK_DUE_ROW] * rows))
    if kind == "request":
        return f"INSERT INTO requests VALUES {values}"
    if kind == "result":
        return f"INSERT OR REPLACE INTO results VALUES {values}"
    table = _DROPPED[kind]
    return f"DELETE FROM {table} WHERE number IN ({','.join('?' * rows)})"
