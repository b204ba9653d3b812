"""What is read of a journal, each with one statement or a bounded slice of rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from serving.broker.items import ROW_BYTES, Item, State
from serving.broker.journal_schema import COLUMNS, item_of
from serving.errors import DataLoss

_COLUMNS: Final = ", ".join(COLUMNS)
_SLICE: Final = 2000
_LOOKED_AT: Final = 20_000  # rows for one page of a list, whatever it wants


def items_with_requests(database: sqlite3.Connection, numbers: Sequence[int]) -> dict[int, tuple[Item, bytes | None]]:
    """At most 500. None for a request that is missing. Raises `DataLoss` where an item is."""
    marks = ",".join("?" * len(numbers))
    rows = database.execute(f"SELECT {_COLUMNS} FROM items WHERE number IN ({marks})", numbers).fetchall()
    bodies = dict(database.execute(f"SELECT number, body FROM requests WHERE number IN ({marks})", numbers))
    missing = set(numbers) - {row[0] for row in rows}
    if missing:
        raise DataLoss(f"the journal has no item {min(missing)}: it is damaged")
    return {row[0]: (item_of(row), bodies.get(row[0])) for row in rows}


def item_with_result(database: sqlite3.Connection, number: int) -> tuple[Item, bytes | None] | None:
    row = database.execute(f"SELECT {_COLUMNS} FROM items WHERE number = ?", (number,)).fetchone()
    if row is None:
        return None
    item = item_of(row)
    if not item.state.answered:
        return item, None
    found = database.execute("SELECT body FROM results WHERE number = ?", (number,)).fetchone()
    return item, found[0] if found else None


def numbers_of_keys(database: sqlite3.Connection, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """By tenant and idempotency key."""
    found: dict[tuple[str, str], int] = {}
    for tenant, key in keys:
        row = database.execute("SELECT number FROM items WHERE tenant = ? AND key = ?", (tenant, key)).fetchone()
        if row is not None:
            found[tenant, key] = row[0]
    return found


def live(database: sqlite3.Connection, after: int) -> list[tuple[Any, ...]]:
    """Number, state and what a queue needs (`Queues.recovered`) of the next ones that wait or run; empty: no more."""
    return database.execute(
        "SELECT number, state, deployment, tenant, priority, submitted, deadline, expected_s, size_bytes FROM items"
        " INDEXED BY items_live WHERE state <= 2 AND number > ? ORDER BY number LIMIT ?",
        (after, _SLICE),
    ).fetchall()


def items(database: sqlite3.Connection, numbers: Sequence[int]) -> list[Item]:
    """Those that there are."""
    found: list[Item] = []
    for at in range(0, len(numbers), 500):
        part = numbers[at : at + 500]
        marks = ",".join("?" * len(part))
        found += map(item_of, database.execute(f"SELECT {_COLUMNS} FROM items WHERE number IN ({marks})", part))
    return found


def dead(database: sqlite3.Connection) -> dict[str, int]:
    """How many, by deployment."""
    return dict(
        database.execute("SELECT deployment, count(*) FROM items INDEXED BY items_dead WHERE state = 5 GROUP BY 1")
    )


def ended_bytes(database: sqlite3.Connection) -> list[tuple[str, int]]:
    """Of what has ended and is kept, rows included, by tenant. Reads all rows."""
    return database.execute(
        f"SELECT tenant, SUM({ROW_BYTES} + CASE WHEN state IN (3, 4) THEN result_bytes ELSE size_bytes END) FROM items"
        " WHERE state > 2 GROUP BY tenant"
    ).fetchall()


def expired(database: sqlite3.Connection, now: float, limit: int) -> list[Item]:
    """Those whose time to be forgotten has come."""
    rows = database.execute(
        f"SELECT {_COLUMNS} FROM items INDEXED BY items_expires WHERE expires <= ? ORDER BY expires LIMIT ?",
        (now, limit),
    ).fetchall()
    return [item_of(row) for row in rows]


@dataclass(frozen=True, slots=True)
class Filter:
    """Empty: all."""

    deployment: str = ""
    tenant: str | None = None
    states: frozenset[State] = frozenset()

    def fits(self, item: Item) -> bool:
        return (
            (not self.deployment or item.deployment == self.deployment)
            and (self.tenant is None or item.tenant == self.tenant)
            and (not self.states or item.state in self.states)
        )


def page(database: sqlite3.Connection, wanted: Filter, after: int, limit: int) -> tuple[list[Item], int | None]:
    """By number, the oldest first; where the next page begins, None: there is none.

    It may have fewer than `limit`, or none, before the last page: no page looks at more than so many rows.
    """
    where, values = ["number > ?"], [after]
    if wanted.states == {State.DEAD}:  # few, and asked for most often
        where.append("state = 5")
    elif wanted.states and all(state.live for state in wanted.states):
        where.append("state <= 2")
    rows = database.execute(
        f"SELECT {_COLUMNS} FROM items WHERE {' AND '.join(where)} ORDER BY number LIMIT ?", (*values, _LOOKED_AT)
    )
    found: list[Item] = []
    seen = 0
    last = after
    for row in rows:
        item = item_of(row)
        seen, last = seen + 1, item.number
        if wanted.fits(item):
            found.append(item)
            if len(found) == limit:
                break
    more = len(found) == limit or seen == _LOOKED_AT
    return found, last if more else None
