"""Items and results on disk. One thread writes: while one commit is on its way to the disk the next one gathers.

Large results go to files of their own by another thread, before their commit: those of others do not wait for them.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from serving.broker import journal_schema as schema
from serving.broker import queries
from serving.broker.items import Item
from serving.broker.journal_changes import Change, apply
from serving.broker.large_results import LargeResults
from serving.errors import DataLoss, Internal, MeshError, Unavailable

_LOG: Final = logging.getLogger(__name__)
T = TypeVar("T")
Found: TypeAlias = tuple[Item, bytes | None]  # with its result, where it has one
Written: TypeAlias = Callable[[list[MeshError | None]], None]  # an error or None for each change
_GROUP_CHANGES: Final = 2000
_GROUP_BYTES: Final = 32 << 20
_WAL_LIMIT: Final = 64 << 20  # then the log is emptied, for which new commits wait


class ChangeLog(Protocol):
    """Where changes are kept for other nodes; the file is then an index of it, made anew by whoever opens it."""

    @property
    def failure(self) -> MeshError | None:
        """What ended it: nothing can be written any more."""

    def append(self, index: sqlite3.Connection, changes: Sequence[Change]) -> None:
        """Keeps them, all or none; the transaction of `index` has them already. On the writer's thread.

        Raises what they are refused with; where it is not known whether they are kept, `failure` is set, too.
        """


@dataclass(slots=True)
class Commits:
    """What the writer has done, for metrics. Written by its thread."""

    groups: int = 0
    changes: int = 0
    failed: int = 0
    seconds: float = 0.0
    on_commit: Callable[[float, int], None] | None = None  # seconds, changes

    def note(self, seconds: float, changes: int) -> None:
        self.groups += 1
        self.changes += changes
        self.seconds += seconds
        if self.on_commit is not None:
            self.on_commit(seconds, changes)


@dataclass(slots=True)
class _Write:
    changes: Sequence[Change]
    then: Written
    outcome: list[MeshError | None] = field(default_factory=list)
    by_files: bool = False  # through the thread of large results
    refused: dict[int, MeshError] = field(default_factory=dict)  # changes, by their place, whose files were not written


@dataclass(slots=True)
class _Read:
    look: Callable[[sqlite3.Connection], Any]
    future: asyncio.Future[Any]


class Journal:
    """From `open` to `close`, which block. `write` and `read` belong to the event loop it was opened for."""

    def __init__(
        self,
        path: Path,
        loop: asyncio.AbstractEventLoop,
        writer: sqlite3.Connection,
        reader: sqlite3.Connection,
        large: LargeResults,
        log: ChangeLog | None = None,
    ) -> None:
        """See `open`."""
        self.path = path
        self.name = path.stem
        self._loop = loop
        self.commits = Commits()
        self._failure: MeshError | None = None
        self._log = log
        self.unwritten_bytes = 0  # bodies in memory that wait for a commit
        self._in_files = 0  # writes that go through the thread of large results, or went
        self._writer = writer
        self._reader = reader
        self._large = large
        self._items: int
        self._bytes: int
        with schema.disk_errors(path):
            self.key: bytes = writer.execute("SELECT value FROM about WHERE name = 'key'").fetchone()[0]
            self._items, self._bytes = writer.execute("SELECT items, bytes FROM totals").fetchone()
            last = writer.execute("SELECT seq FROM sqlite_sequence WHERE name = 'items'").fetchone()
        self.last_number: int = last[0] if last else 0
        self._writes: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._reads: queue.SimpleQueue[_Read | None] = queue.SimpleQueue()
        self._files: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._write_loop, name="journal-writer", daemon=True),
            threading.Thread(target=self._read_loop, name="journal-reader", daemon=True),
            threading.Thread(target=self._file_loop, name="journal-files", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @classmethod
    def open(
        cls, path: Path, loop: asyncio.AbstractEventLoop, sync: str = "full", log: ChangeLog | None = None
    ) -> Journal:
        """From any thread. `log`: of which the file is the index.

        Raises `FailedPrecondition` (it cannot be written, or has another version), `ResourceExhausted` (the disk is
        full) or `DataLoss` (it is damaged; the file stays as it is).
        """
        writer = schema.open_writer(path, sync)
        try:
            reader = schema.open_reader(path)
        except BaseException:
            writer.close()
            raise
        try:
            large = LargeResults(path, sync)
            with schema.disk_errors(path):
                swept = large.sweep(writer)
            if swept:
                _LOG.info("results that no item has are removed", extra={"journal": path.stem, "files": swept})
            return cls(path, loop, writer, reader, large, log)
        except BaseException:
            reader.close()
            writer.close()
            raise

    @property
    def failure(self) -> MeshError | None:
        """Of the journal as a whole: nothing can be done with it any more."""
        return self._failure or (self._log.failure if self._log is not None else None)

    @property
    def items(self) -> int:
        """Kept in all, as of the last commit."""
        return self._items

    @property
    def bytes(self) -> int:
        return self._bytes

    # ------------------------------------------------------------------------------------------------ for the loop

    def write(self, changes: Sequence[Change], then: Written) -> None:
        """Calls `then` on the loop when they are on disk. One that fails takes no other with it.

        Each item stands in at most one change that is not written yet.
        """
        if self._closed or self.failure is not None:
            error = self.failure or Unavailable(f"the journal {self.name} is closed: it moves to another broker")
            refused: list[MeshError | None] = [error] * len(changes)
            self._loop.call_soon(then, refused)
            return
        self.unwritten_bytes += sum(change.body_bytes for change in changes)
        by_files = any(change.is_large for change in changes) or (not changes and self._in_files > 0)
        self._in_files += by_files
        (self._files if by_files else self._writes).put(_Write(changes, then, by_files=by_files))

    async def written(self) -> None:
        """Returns when a group has been committed, or at once when none is on its way."""
        if self.unwritten_bytes and not self._closed:
            arrived: asyncio.Future[None] = self._loop.create_future()
            self.write([], lambda _: None if arrived.done() else arrived.set_result(None))
            await arrived

    async def read(self, look: Callable[[sqlite3.Connection], T]) -> T:
        """What `look` finds, on the reader's thread. Raises errors of the mesh."""
        if self._closed:
            raise Unavailable(f"the journal {self.name} is closed: it moves to another broker")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._reads.put(_Read(look, future))
        return await future

    async def item_with_result(self, number: int) -> Found | None:
        """None: it is not kept. Raises `DataLoss` where its result is missing, and other errors of the mesh."""
        return await self.read(partial(self._item_with_result, number=number))

    def close(self) -> None:
        """Writes what was given, folds the log into the file and lets go of it. Blocks; may be repeated."""
        if self._closed:
            return
        self._closed = True
        self._reads.put(None)
        self._threads[1].join()
        self._files.put(None)
        self._threads[2].join()
        self._writes.put(None)  # the last one to close the file folds the log into it, which a reader must not
        self._threads[0].join()

    # ------------------------------------------------------------------------------------------------ the threads

    def _write_loop(self) -> None:
        ended = False
        while not ended:
            group, ended = _gather(self._writes)
            if group:
                self._write_group(group)
                self._on_loop(self._written, group)
        try:
            self._writer.close()
        except sqlite3.Error as error:  # what is in the log stays there for whoever opens it next
            self._failure = schema.disk_error(error, self.path)

    def _written(self, group: list[_Write]) -> None:
        for write in group:
            self._in_files -= write.by_files
            self.unwritten_bytes -= sum(change.body_bytes for change in write.changes)
            write.then(write.outcome)

    def _write_group(self, group: list[_Write]) -> None:
        changes = [change for write in group for at, change in enumerate(write.changes) if at not in write.refused]
        outcomes = iter(self._outcomes(changes))
        for write in group:
            write.outcome = [write.refused.get(at) or next(outcomes) for at in range(len(write.changes))]
            self.commits.failed += sum(outcome is not None for outcome in write.outcome)
            self._drop_refused(write)

    def _outcomes(self, changes: Sequence[Change]) -> list[MeshError | None]:
        """Of each, when they are written. The one that does not fit must not take the others with it: each half of them
        is tried without the other, as each commit may take a while."""
        if not changes or self.failure is not None:
            return [self.failure] * len(changes)
        started = time.monotonic()
        error = self._commit(changes)
        if error is None:
            self.commits.note(time.monotonic() - started, len(changes))
        elif len(changes) > 1 and self.failure is None:
            middle = len(changes) // 2
            return self._outcomes(changes[:middle]) + self._outcomes(changes[middle:])
        return [error] * len(changes)

    def _drop_refused(self, write: _Write) -> None:
        """Files of what was not kept: they count nowhere, and a disk that is full has no room for a second copy.

        Where a log, or a disk that fails, may have the change after all, they stay for whoever opens the journal next.
        """
        for at, (change, outcome) in enumerate(zip(write.changes, write.outcome, strict=True)):
            unknown = self.failure is not None or isinstance(outcome, Unavailable)
            if change.is_large and outcome is not None and not unknown and at not in write.refused:
                self._remove_file(change)

    def _commit(self, changes: Sequence[Change]) -> MeshError | None:
        database = self._writer
        items, size = self._items, self._bytes
        kept = False  # by the log
        try:
            database.execute("BEGIN IMMEDIATE")
            apply(database, changes)
            items += sum(change.items for change in changes)
            size += sum(change.size for change in changes)
            database.execute("UPDATE totals SET items = ?, bytes = ?", (items, size))
            if self._log is not None:
                self._log.append(database, changes)
                kept = True
            database.execute("COMMIT")
        except (sqlite3.Error, OverflowError, UnicodeError, MeshError) as error:
            told = self._failed(error)
            if kept:  # the index lags behind: whoever opens the journal next makes another one
                self._failure = Unavailable(f"the index of the journal {self.name} cannot be written: {told.message}")
            return self._failure or told
        self._items, self._bytes = items, size
        self._drop_files(changes)
        self._bound_log()
        return None

    def _drop_files(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.drop_file:
                self._remove_file(change)

    def _remove_file(self, change: Change) -> None:
        try:
            self._large.remove(change.number, change.attempt)
        except OSError as error:  # whoever opens the journal next removes it
            keys = {"journal": self.name, "item": change.number, "error": str(error)}
            _LOG.warning("a large result could not be removed", extra=keys)

    def _failed(self, error: Exception) -> MeshError:
        if self._writer.in_transaction:  # a full disk has ended it already
            try:
                self._writer.execute("ROLLBACK")
            except sqlite3.Error as second:
                self._failure = schema.disk_error(second, self.path)
        if isinstance(error, MeshError):
            return error
        if not isinstance(error, sqlite3.Error):
            return Internal(f"the journal {self.name} cannot keep it: {error}")
        told = schema.disk_error(error, self.path)
        if isinstance(told, DataLoss):
            self._failure = told
        return told

    def _bound_log(self) -> None:
        """Readers may keep the log from being begun anew; then it is emptied by force: reads are short."""
        try:
            if self.path.with_name(self.path.name + "-wal").stat().st_size > _WAL_LIMIT:
                self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except (sqlite3.Error, OSError):
            return  # what was committed is in the log; the next commit tries it again

    def _file_loop(self) -> None:
        while (write := self._files.get()) is not None:
            for at, change in enumerate(write.changes):
                if change.is_large and change.result is not None:
                    try:
                        self._large.write(change.number, change.attempt, change.result)
                    except OSError as error:
                        write.refused[at] = schema.disk_error(error, self.path)
            self._writes.put(write)

    def _item_with_result(self, database: sqlite3.Connection, number: int) -> Found | None:
        found = queries.item_with_result(database, number)
        if found is None or not found[0].state.answered or found[1] is not None:
            return found
        item = found[0]
        with schema.disk_errors(self.path):
            body = self._large.read(number, item.attempt)
        if body is not None and len(body) == item.result_bytes:
            return item, body
        if queries.item_with_result(database, number) is None:  # it was forgotten meanwhile
            return None
        raise DataLoss(f"the result of item {self.name}.{number} is missing beside its journal, which is damaged")

    def _read_loop(self) -> None:
        while True:
            read = self._reads.get()
            if read is None:
                self._reader.close()
                return
            found: Any = None
            error: Exception | None = None
            try:
                found = read.look(self._reader)
            except sqlite3.Error as failed:
                error = told = schema.disk_error(failed, self.path)
                if isinstance(told, DataLoss):
                    self._failure = told
            except Exception as failed:  # noqa: BLE001 - it goes to whoever asked
                error = failed
            self._on_loop(_answer, read.future, found, error)

    def _on_loop(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            if not self._loop.is_closed():  # then nobody waits any more
                raise


def _gather(writes: queue.SimpleQueue[_Write | None]) -> tuple[list[_Write], bool]:
    """What waits, up to a bound; at least one. True when it was the last."""
    group: list[_Write] = []
    changes = size = 0
    while True:
        try:
            write = writes.get(block=not group)
        except queue.Empty:
            return group, False
        if write is None:
            return group, True
        group.append(write)
        changes += len(write.changes)
        size += sum(change.body_bytes for change in write.changes)
        if changes >= _GROUP_CHANGES or size >= _GROUP_BYTES:
            return group, False


def _answer(future: asyncio.Future[Any], found: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(found)
    else:
        future.set_exception(error)
