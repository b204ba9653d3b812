"""The SQLite file of the cache: its tables, and what a crash may cost.

Journal mode WAL with `synchronous=NORMAL`: a commit is appended to the log and not waited for until the log is folded
into the file. When the process is killed nothing that was committed is lost. When the machine loses power the last
entries may be gone; whichever are there are whole, because a frame of the log with a wrong checksum ends the log. For a
cache that is the right trade: a lost entry is generated again.
"""

from __future__ import annotations

import logging
import sqlite3
import time
import uuid
from pathlib import Path
from typing import Final

from serving.errors import FailedPrecondition

_VERSION: Final = "1"
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entries (
  id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never given twice: a written graph may still hold a removed one
  key BLOB NOT NULL UNIQUE, scope BLOB NOT NULL, tenant TEXT NOT NULL, model TEXT NOT NULL, revision TEXT NOT NULL,
  text TEXT NOT NULL, answer BLOB NOT NULL, vector BLOB, learned BLOB,
  created REAL NOT NULL, expires REAL NOT NULL, used REAL NOT NULL, hits INTEGER NOT NULL, size INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS entries_scope ON entries (scope);
CREATE INDEX IF NOT EXISTS entries_model ON entries (tenant, model);
CREATE INDEX IF NOT EXISTS entries_expires ON entries (expires);
CREATE INDEX IF NOT EXISTS entries_used ON entries (used);
CREATE TABLE IF NOT EXISTS tags (
  tag TEXT NOT NULL, id INTEGER NOT NULL REFERENCES entries (id) ON DELETE CASCADE, PRIMARY KEY (tag, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tags_id ON tags (id);
"""
_log = logging.getLogger(__name__)


def open_database(path: Path, embedder: str) -> tuple[sqlite3.Connection, str]:
    """The connection, and the file's own id. Entries of another embedder or version are dropped.

    A file that is no database, or damaged, is set aside as `<name>.damaged-<time>` and a new one begun. Raises
    `FailedPrecondition` when the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return _open(path, embedder)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
            path.rename(aside)
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            _log.warning("cache file is damaged: began a new one", extra={"kept_as": str(aside), "error": str(error)})
            return _open(path, embedder)
    except (OSError, sqlite3.OperationalError) as error:
        raise FailedPrecondition(f"the cache cannot be kept in {path}: {error}") from None


def _open(path: Path, embedder: str) -> tuple[sqlite3.Connection, str]:
    database = sqlite3.connect(path, check_same_thread=False, isolation_level=None, cached_statements=64)
    try:
        database.executescript(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON; PRAGMA mmap_size=268435456;"
            + _TABLES
        )
        meta = dict(database.execute("SELECT name, value FROM meta"))
        if meta.get("embedder") != embedder or meta.get("version") != _VERSION:
            database.execute("BEGIN IMMEDIATE")
            database.execute("DELETE FROM entries")
            fresh = [("embedder", embedder), ("version", _VERSION), ("id", uuid.uuid4().hex)]
            database.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", fresh)
            database.execute("COMMIT")
            return database, fresh[2][1]
        return database, meta["id"]
    except BaseException:
        database.close()
        raise
