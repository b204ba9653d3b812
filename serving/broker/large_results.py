"""Large results, each in a file of its own beside the journal: a commit that others wait for does not carry them.

A file is whole and on disk before the commit that ends its item. Its name says item and attempt, so that what an
attempt left which was not wanted is never taken for the result. Files that no commit names are removed when the journal
is opened by whoever has its lock.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Final

from serving.broker.items import State

LARGE_BYTES: Final = 1 << 20  # results above it have files
_PART: Final = ".part"


class LargeResults:
    """Of one journal; from any thread. Raises `OSError`."""

    def __init__(self, journal: Path, sync: str) -> None:
        """`sync` as the journal's. Files are on disk when `write` returns, also with `normal`: the next checkpoint
        brings the rows there that name them. With `off` they need not be: rows and files are made anew then.
        """
        self._folder = folder_of(journal)
        self._synced = sync != "off"

    def write(self, number: int, attempt: int, body: bytes) -> None:
        """Whole, or not at all."""
        self._have_folder()
        path = self._path(number, attempt)
        part = path.with_name(path.name + _PART)
        try:
            with part.open("wb") as file:
                file.write(body)
                file.flush()
                if self._synced:
                    os.fsync(file.fileno())
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        self._sync_names(self._folder)

    def read(self, number: int, attempt: int) -> bytes | None:
        """None: there is none."""
        try:
            return self._path(number, attempt).read_bytes()
        except FileNotFoundError:
            return None

    def remove(self, number: int, attempt: int) -> None:
        """After the commit that forgets its item."""
        self._path(number, attempt).unlink(missing_ok=True)

    def sweep(self, database: sqlite3.Connection) -> int:
        """Removes what no commit names: of runs that were cut off, and of removals. How many there were."""
        removed = 0
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            if path.is_file() and not _is_named(database, path.name):
                path.unlink()
                removed += 1
        return removed

    def _path(self, number: int, attempt: int) -> Path:
        return self._folder / f"{number}-{attempt}"

    def _have_folder(self) -> None:
        with contextlib.suppress(FileExistsError):
            self._folder.mkdir()
            self._sync_names(self._folder.parent)

    def _sync_names(self, folder: Path) -> None:
        if not self._synced:
            return
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def folder_of(journal: Path) -> Path:
    """Of the files of a journal's large results."""
    return journal.with_suffix(".results")


def remove_large_results(journal: Path) -> None:
    """All of them."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder_of(journal))


def _is_named(database: sqlite3.Connection, name: str) -> bool:
    number, _, attempt = name.partition("-")
    if not (number.isdecimal() and attempt.isdecimal()):
        return False
    answered = (int(State.SUCCEEDED), int(State.FAILED))
    row = database.execute(
        "SELECT 1 FROM items WHERE number = ? AND attempt = ? AND state IN (?, ?) AND result_bytes > ?",
        (int(number), int(attempt), *answered, LARGE_BYTES),
    ).fetchone()
    return row is not None
