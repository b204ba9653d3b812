"""The SQLite file of a journal: its tables, and what it answers when the disk does not do what it should.

Bodies stand in tables of their own, so that recovery and lists read rows of some 200 bytes. `items_live` has the rows
that recovery reads; what has ended costs it nothing.
"""

from __future__ import annotations

import contextlib
import errno
import json
import secrets
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from serving.broker.items import NEVER, Callback, Item, State
from serving.errors import DataLoss, FailedPrecondition, Internal, MeshError, ResourceExhausted, Unavailable

VERSION: Final = 2
_APPLICATION: Final = 0x4D427231  # PRAGMA application_id: "MBr1"
_CALLBACK_TABLES: Final = """
CREATE TABLE callbacks (  -- of items that have ended; `round` counts these ends
  number INTEGER PRIMARY KEY, round INTEGER NOT NULL, receiver TEXT NOT NULL, state INTEGER NOT NULL, due REAL NOT NULL,
  next REAL NOT NULL, tries INTEGER NOT NULL, status INTEGER NOT NULL, reason TEXT NOT NULL
);
CREATE INDEX callbacks_due ON callbacks (number) WHERE state = 2;
CREATE INDEX callbacks_age ON callbacks (due) WHERE state = 2;
CREATE INDEX callbacks_dead ON callbacks (number) WHERE state = 4;
"""
_TABLES: Final = f"""
CREATE TABLE about (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE totals (id INTEGER PRIMARY KEY CHECK (id = 1), items INTEGER NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE items (
  number INTEGER PRIMARY KEY AUTOINCREMENT,  -- never given twice: somebody may hold the ticket of one that is gone
  deployment TEXT NOT NULL, tenant TEXT NOT NULL, key TEXT, priority INTEGER NOT NULL, submitted REAL NOT NULL,
  expected_s REAL NOT NULL, ttl_s REAL NOT NULL, size_bytes INTEGER NOT NULL, labels TEXT,
  deadline REAL, state INTEGER NOT NULL, attempt INTEGER NOT NULL, attempts INTEGER NOT NULL, replica TEXT NOT NULL,
  process TEXT NOT NULL, started REAL NOT NULL, ended REAL NOT NULL, reason TEXT NOT NULL, expires REAL,
  result_bytes INTEGER NOT NULL, callback TEXT
);
CREATE UNIQUE INDEX items_key ON items (tenant, key) WHERE key IS NOT NULL;
CREATE INDEX items_live ON items (number) WHERE state <= 2;
CREATE INDEX items_dead ON items (deployment, number) WHERE state = 5;
CREATE INDEX items_expires ON items (expires) WHERE expires IS NOT NULL;
CREATE TABLE requests (number INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE results (number INTEGER PRIMARY KEY, body BLOB NOT NULL);
{_CALLBACK_TABLES}"""
_UPGRADES: Final = {
    1: f"ALTER TABLE items ADD COLUMN callback TEXT;{_CALLBACK_TABLES}"
}  # from each version to the next
FIRST_COLUMNS: Final = (
    "number", "deployment", "tenant", "key", "priority", "submitted", "expected_s", "ttl_s", "size_bytes", "labels",
    "callback",
)  # fmt: skip
CHANGING_COLUMNS: Final = (
    "deadline", "state", "attempt", "attempts", "replica", "process", "started", "ended", "reason", "expires",
    "result_bytes",
)  # fmt: skip
COLUMNS: Final = FIRST_COLUMNS + CHANGING_COLUMNS
CALLBACK_COLUMNS: Final = ("state", "due", "next", "tries", "status", "reason")
NO_CALLBACK: Final = (1, 0.0, 0.0, 0, 0, "")  # of an item that has not ended
CALLBACK_DUE_ROW: Final = "(?, 1, ?, 2, ?, ?, 0, 0, '')"
CALLBACK_DUE: Final = (
    "INSERT INTO callbacks (number, round, receiver, state, due, next, tries, status, reason) VALUES {values}"
    " ON CONFLICT (number) DO UPDATE SET round = round + 1, receiver = excluded.receiver, state = 2,"
    " due = excluded.due, next = excluded.next, tries = 0, status = 0, reason = ''"
)
_CACHE_KIB: Final = 16 * 1024
_WAL_PAGES: Final = 4096  # then what is in the log is folded into the file: 16 MiB
_BUSY_S: Final = 30.0


def open_writer(path: Path, sync: str) -> sqlite3.Connection:
    """Begins the file where there is none. `sync`: full, normal or off.

    Raises `FailedPrecondition`, `ResourceExhausted` or `DataLoss`.
    """
    with disk_errors(path):
        fresh = not path.exists() or path.stat().st_size == 0
        database = _connect(path)
        try:
            if fresh:
                _begin(database)
            else:
                _check(database, path)
            database.execute(f"PRAGMA synchronous={sync.upper()}")
            database.execute(f"PRAGMA wal_autocheckpoint={_WAL_PAGES}")
            return database
        except BaseException:
            database.close()
            raise


def open_reader(path: Path) -> sqlite3.Connection:
    """Of a file that has a writer."""
    with disk_errors(path):
        database = _connect(path)
        database.execute("PRAGMA query_only=ON")
        return database


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(
        path, timeout=_BUSY_S, check_same_thread=False, isolation_level=None, cached_statements=128
    )
    database.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
    return database


def _begin(database: sqlite3.Connection) -> None:
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("BEGIN IMMEDIATE")
    _run_all(database, _TABLES)
    database.execute("INSERT INTO about VALUES ('key', ?)", (secrets.token_bytes(32),))
    database.execute("INSERT INTO totals VALUES (1, 0, 0)")
    database.execute(f"PRAGMA application_id={_APPLICATION}")
    database.execute(f"PRAGMA user_version={VERSION}")
    database.execute("COMMIT")


def _run_all(database: sqlite3.Connection, statements: str) -> None:
    for statement in statements.split(";\n"):
        database.execute(statement)


def _check(database: sqlite3.Connection, path: Path) -> None:
    """That it is a journal, whole as far as its beginning tells, and of this version or made so."""
    (kind,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if kind != _APPLICATION:
        raise DataLoss(f"{path} is not a broker's journal; it is left as it is: move it out of the folder")
    if version != VERSION and version not in _UPGRADES:
        raise FailedPrecondition(
            f"the journal {path} has version {version}, this broker reads {VERSION}: serve it with the release that "
            "wrote it until it is empty"
        )
    found = {name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    missing = {"about", "totals", "items", "requests", "results"} - found
    if missing:
        raise DataLoss(f"the journal {path} is damaged: it has no table {', '.join(sorted(missing))}")
    while version != VERSION:
        _upgrade(database, version)
        version += 1


def _upgrade(database: sqlite3.Connection, version: int) -> None:
    """To the next version, whole or not at all."""
    database.execute("PRAGMA synchronous=FULL")
    database.execute("BEGIN IMMEDIATE")
    try:
        _run_all(database, _UPGRADES[version])
        database.execute(f"PRAGMA user_version={version + 1}")
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


# ---------------------------------------------------------------------------------------------------- rows


def first_values(item: Item) -> tuple[Any, ...]:
    labels = json.dumps(dict(item.labels), ensure_ascii=False) if item.labels else None
    return (item.number, item.deployment, item.tenant, item.key or None, item.priority, item.submitted,
            item.expected_s, item.ttl_s, item.size_bytes, labels, _callback_text(item.callback))  # fmt: skip


def changing_values(item: Item) -> tuple[Any, ...]:
    return (item.deadline if item.deadline < NEVER else None, int(item.state), item.attempt, item.attempts,
            item.replica, item.process, item.started, item.ended, item.reason,
            item.expires if item.expires < NEVER else None, item.result_bytes)  # fmt: skip


def item_of(row: tuple[Any, ...]) -> Item:
    """Of `COLUMNS`."""
    (number, deployment, tenant, key, priority, submitted, expected_s, ttl_s, size_bytes, labels, callback, deadline,
     state, attempt, attempts, replica, process, started, ended, reason, expires, result_bytes) = row  # fmt: skip
    return Item(
        number, deployment, tenant, key or "", priority, submitted, NEVER if deadline is None else deadline, expected_s,
        ttl_s, size_bytes, json.loads(labels) if labels else {}, State(state), attempt, attempts, replica, process,
        started, ended, reason, NEVER if expires is None else expires, result_bytes, _callback_of(callback),
    )  # fmt: skip


def _callback_text(callback: Callback | None) -> str | None:
    if callback is None:
        return None
    return json.dumps([callback.url, callback.receiver, callback.secret, sorted(callback.states)])


def _callback_of(text: str | None) -> Callback | None:
    if text is None:
        return None
    url, receiver, secret, states = json.loads(text)
    return Callback(url, receiver, secret, frozenset(map(State, states)))


# ---------------------------------------------------------------------------------------------------- errors

_FULL: Final = 13  # https://www.sqlite.org/rescode.html
_READONLY: Final = 8
_PERM: Final = 3
_CANTOPEN: Final = 14
_BUSY: Final = 5
_LOCKED: Final = 6
_IOERR: Final = 10
_CORRUPT: Final = 11
_NOTADB: Final = 26
_BY_TEXT: Final = (  # Python 3.10 does not tell the code
    ("full", _FULL), ("readonly", _READONLY), ("unable to open", _CANTOPEN), ("locked", _BUSY),
    ("disk i/o", _IOERR), ("malformed", _CORRUPT), ("not a database", _NOTADB), ("access permission", _PERM),
)  # fmt: skip


def _code_of(error: sqlite3.Error) -> int:
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(code, int):
        return code & 0xFF
    text = str(error).lower()
    return next((code for words, code in _BY_TEXT if words in text), 0)


def disk_error(error: sqlite3.Error | OSError, path: Path) -> MeshError:
    """What a client or an operator is told of it."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceExhausted(f"the disk of the journal {path.name} is full: make room in {path.parent}")
    if isinstance(error, OSError):
        return FailedPrecondition(f"the journal {path} cannot be used: {error.strerror or error}")
    code = _code_of(error)
    if code == _FULL:
        return ResourceExhausted(f"the disk of the journal {path.name} is full: make room in {path.parent}")
    if code in (_READONLY, _PERM, _CANTOPEN):
        return FailedPrecondition(f"the journal {path} cannot be written: {error}")
    if code in (_CORRUPT, _NOTADB):
        return DataLoss(f"the journal {path} is damaged: {error}; it is left as it is")
    if code in (_BUSY, _LOCKED):
        return Unavailable(f"the journal {path.name} is used by another process that does not hold its lock: {error}")
    if code == _IOERR:
        return Unavailable(f"the disk of the journal {path} fails: {error}")
    return Internal(f"the journal {path.name}: {error}")


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Errors of SQLite and of the system as those of the mesh."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise disk_error(error, path) from error
