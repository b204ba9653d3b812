"""The index of a journal in Redis: a SQLite file on the broker's node, made anew by whoever takes the journal.

All that is read is read of it, so that a list or an idempotency key costs what it costs with a journal on the disk. It
is of no use to anybody later, so nothing waits for the disk because of it.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from serving.broker import journal_schema as schema
from serving.broker.items import ROW_BYTES, State
from serving.broker.redis_log import rows
from serving.broker.redis_log.scripts import Keys
from serving.broker.redis_log.server import RedisServer
from serving.errors import DataLoss, FailedPrecondition, Unavailable

_SLICE: Final = 1000  # entries of one answer
_BODIES_BYTES: Final = 8 << 20  # of one answer
_ROW: Final = f"INSERT INTO items ({', '.join(schema.COLUMNS)}) VALUES ({', '.join('?' * len(schema.COLUMNS))})"
_CALLBACK: Final = (
    f"INSERT INTO callbacks (number, {', '.join(rows.CALLBACK_FIELDS)})"
    f" VALUES ({', '.join('?' * (1 + len(rows.CALLBACK_FIELDS)))})"
)
_NUMBER: Final = schema.COLUMNS.index("number")
_STATE: Final = schema.COLUMNS.index("state")
_CALLS_BACK: Final = schema.COLUMNS.index("callback")
_SIZES: Final = {"requests": schema.COLUMNS.index("size_bytes"), "results": schema.COLUMNS.index("result_bytes")}
_ANSWERED: Final = frozenset(int(state) for state in State if state.answered)


def write_index(path: Path, server: RedisServer, keys: Keys) -> None:
    """Of a journal that was taken; the file is begun. Raises `MeshError`, or an error of Redis."""
    about: dict[bytes, bytes] = server.client.hgetall(keys.meta)  # type: ignore[assignment]
    _check_version(keys, about)
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    database = schema.open_writer(path, "off")
    try:
        with schema.disk_errors(path):
            database.execute("PRAGMA journal_mode=OFF")  # what is not finished is thrown away: no second copy in a log
            database.execute("BEGIN IMMEDIATE")
            with _indexes_afterwards(database):
                _fill(database, server, keys)
            database.execute("UPDATE about SET value = ? WHERE name = 'key'", (about[b"key"],))
            database.execute("DELETE FROM sqlite_sequence WHERE name = 'items'")
            database.execute("INSERT INTO sqlite_sequence VALUES ('items', ?)", (int(about[b"last"]),))
            database.execute("COMMIT")
            database.execute("PRAGMA journal_mode=WAL")
    finally:
        database.close()


@contextlib.contextmanager
def _indexes_afterwards(database: sqlite3.Connection) -> Iterator[None]:
    """Sorted once at the end: keys come in no order, and a million of them do not fit into SQLite's cache."""
    indexes = database.execute(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"
    ).fetchall()
    for name, _ in indexes:
        database.execute(f"DROP INDEX {name}")
    yield
    for _, statement in indexes:
        database.execute(statement)


def _check_version(keys: Keys, about: dict[bytes, bytes]) -> None:
    if b"key" not in about:
        raise Unavailable(f"the journal {keys.journal} is not in Redis any more")
    version, columns = about[b"version"].decode(), about[b"columns"].decode()
    if version != str(schema.VERSION) or columns != rows.COLUMNS_TEXT:
        raise FailedPrecondition(
            f"the journal {keys.journal} in Redis has version {version}, this broker reads {schema.VERSION}: serve it "
            "with the release that wrote it until it is empty"
        )


def _fill(database: sqlite3.Connection, server: RedisServer, keys: Keys) -> None:
    items = size = 0
    for found in _slices(server, keys):
        try:
            entries = rows.parsed(found)
        except ValueError as error:
            raise DataLoss(f"the journal {keys.journal} in Redis is damaged: {error}; it is left as it is") from error
        database.executemany(_ROW, [row for row, _ in entries])
        database.executemany(_CALLBACK, [callback for _, callback in entries if callback is not None])
        wanted: dict[str, list[tuple[Any, ...]]] = {"requests": [], "results": []}
        for row, _ in entries:
            wanted["results" if row[_STATE] in _ANSWERED else "requests"].append(row)
        for table, key in (("requests", keys.requests), ("results", keys.results)):
            _bodies(database, server, key, table, wanted[table])
            size += sum(_kept_bytes(row, table) for row in wanted[table])
        items += len(entries)
    heads: int = server.client.hlen(keys.heads)
    if heads != items:
        raise DataLoss(
            f"the journal {keys.journal} in Redis is damaged: its stream has {items} items of {heads}; it is left as "
            "it is"
        )
    database.execute("UPDATE totals SET items = ?, bytes = ?", (items, size))


def _kept_bytes(row: tuple[Any, ...], table: str) -> int:
    """As `Item.kept_bytes`, which costs an item to be made."""
    return ROW_BYTES + int(row[_SIZES[table]]) if row[_CALLS_BACK] is None else schema.item_of(row).kept_bytes


def _slices(server: RedisServer, keys: Keys) -> Iterator[list[bytes]]:
    """What the stream has, item by item."""
    after = "-"
    while True:
        found: Any = server.client.xrange(keys.items, min=after, count=_SLICE)
        if not found:
            return
        yield [fields[b"i"] for _, fields in found]
        epoch, _, count = found[-1][0].decode().partition("-")
        after = f"{epoch}-{int(count) + 1}"  # `(` for what follows is not known to servers before 6.2


def _bodies(
    database: sqlite3.Connection, server: RedisServer, key: str, table: str, wanted: Sequence[tuple[Any, ...]]
) -> None:
    """Copies them. One that is missing stays so, and its item is DEAD when it is to run."""
    for numbers in _by_size(wanted, _SIZES[table]):
        bodies: Any = server.client.hmget(key, numbers)
        found = [(number, body) for number, body in zip(numbers, bodies, strict=True) if body is not None]
        database.executemany(f"INSERT INTO {table} VALUES (?, ?)", found)


def _by_size(wanted: Sequence[tuple[Any, ...]], column: int) -> Iterator[list[int]]:
    numbers: list[int] = []
    size = 0
    for row in wanted:
        if numbers and size + row[column] > _BODIES_BYTES:
            yield numbers
            numbers, size = [], 0
        numbers.append(row[_NUMBER])
        size += row[column]
    if numbers:
        yield numbers
