"""What the journal keeps of callbacks, and what is read of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Final

from serving.broker.items import NEVER, Item
from serving.broker.journal_schema import COLUMNS, item_of

_SLICE: Final = 2000
_COLUMNS: Final = ", ".join(f"items.{name}" for name in COLUMNS)
_OWN: Final = "callbacks.round, callbacks.state, due, next, tries, status, callbacks.reason"
_OWN_WIDTH: Final = 7


class CallbackState(IntEnum):
    """By the numbers of proto/broker.proto."""

    WAITS = 1
    DUE = 2
    DELIVERED = 3
    DEAD = 4
    UNWANTED = 5


@dataclass(frozen=True, slots=True)
class Record:
    """Of an item's callback. Times are unix seconds, 0 where there is none. `round` counts the ends that it told of."""

    state: CallbackState
    round: int = 0
    due: float = 0.0
    next: float = 0.0
    tries: int = 0
    status: int = 0  # of HTTP; 0: there was no answer
    reason: str = ""

    def values(self, number: int) -> tuple[Any, ...]:
        """For a change of the journal."""
        return (number, int(self.state), self.due, self.next, self.tries, self.status, self.reason)


@dataclass(frozen=True, slots=True)
class Kept:
    """An item with its callback's record, and its result where that was asked for and is small enough."""

    item: Item
    record: Record
    result: bytes | None = None


def due(database: sqlite3.Connection, after: int) -> list[tuple[int, str, str, float]]:
    """Number, tenant, receiver and next try of the next ones; empty: no more."""
    return database.execute(
        "SELECT callbacks.number, tenant, receiver, next FROM callbacks INDEXED BY callbacks_due"
        " JOIN items USING (number) WHERE callbacks.state = 2 AND callbacks.number > ?"
        " ORDER BY callbacks.number LIMIT ?",
        (after, _SLICE),
    ).fetchall()


@dataclass(frozen=True, slots=True)
class Totals:
    """`oldest`: since when the one that is due for longest is; NEVER: none is."""

    dead: int = 0
    oldest: float = NEVER


def totals(database: sqlite3.Connection) -> Totals:
    (dead,) = database.execute("SELECT count(*) FROM callbacks INDEXED BY callbacks_dead WHERE state = 4").fetchone()
    (oldest,) = database.execute("SELECT min(due) FROM callbacks INDEXED BY callbacks_age WHERE state = 2").fetchone()
    return Totals(dead, NEVER if oldest is None else oldest)


def kept(database: sqlite3.Connection, number: int, most_bytes: int = 0) -> Kept | None:
    """None: the item is not kept any more, or has no callback. Its result, where it has at most `most_bytes`."""
    row = database.execute(
        f"SELECT {_OWN}, {_COLUMNS} FROM items LEFT JOIN callbacks USING (number) WHERE items.number = ?", (number,)
    ).fetchone()
    if row is None:
        return None
    found = _kept(row)
    if found.item.callback is None:
        return None
    if not found.item.state.answered or found.item.result_bytes > most_bytes:
        return found
    body = database.execute("SELECT body FROM results WHERE number = ?", (number,)).fetchone()
    return replace(found, result=body[0] if body else None)


def page(database: sqlite3.Connection, state: CallbackState, after: int, limit: int) -> tuple[list[Kept], int | None]:
    """Those that are DUE or DEAD, the oldest items first; where the next page begins, None: there is none."""
    index = {CallbackState.DUE: "callbacks_due", CallbackState.DEAD: "callbacks_dead"}[state]
    rows = database.execute(
        f"SELECT {_OWN}, {_COLUMNS} FROM callbacks INDEXED BY {index} JOIN items USING (number)"
        f" WHERE callbacks.state = {int(state)} AND callbacks.number > ? ORDER BY callbacks.number LIMIT ?",
        (after, limit),
    ).fetchall()
    found = [_kept(row) for row in rows]
    return found, found[-1].item.number if len(found) == limit else None


def _kept(row: Sequence[Any]) -> Kept:
    item = item_of(tuple(row[_OWN_WIDTH:]))
    return Kept(item, _record(item, row[:_OWN_WIDTH]))


def _record(item: Item, row: Sequence[Any]) -> Record:
    round_, state, *rest = row
    if item.state.live:
        return Record(CallbackState.WAITS, round_ or 0)
    if state is None or state == CallbackState.WAITS:  # an earlier end was told of, this one is not
        return Record(CallbackState.UNWANTED, round_ or 0)
    return Record(CallbackState(state), round_, *rest)
