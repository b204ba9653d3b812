"""The journals that lie below a folder, whichever application they are of, also of those that are gone."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serving.broker.items import State
from serving.broker.journal_schema import disk_errors, open_reader
from serving.broker.shelf import SUFFIX, JournalLock, remove_journal
from serving.errors import FailedPrecondition, MeshError, NotFound

_DEPTH: Final = f"*/*/*/*{SUFFIX}"  # namespace, application, deployment


@dataclass(frozen=True, slots=True)
class LyingJournal:
    """`live` items wait or run, `dead` were given up, `ended` are kept with results. `problem`: why that is not known.

    `served`: a broker of this node has it.
    """

    namespace: str
    application: str
    deployment: str
    journal: str
    path: str
    served: bool
    live: int = 0
    dead: int = 0
    ended: int = 0
    bytes: int = 0
    problem: str = ""


def lying_journals(folder: Path) -> list[LyingJournal]:
    """Reads each; nothing is changed. Raises `FailedPrecondition` for a folder that cannot be read."""
    if not folder.is_dir():
        raise FailedPrecondition(f"{folder} is no folder of journals on this machine")
    return [_read(path) for path in sorted(folder.glob(_DEPTH))]


def remove_lying(folder: Path, journal: str) -> LyingJournal:
    """Removes one that nobody serves, with all that is in it. Raises `NotFound`, `FailedPrecondition`."""
    for path in folder.glob(_DEPTH):
        if path.stem == journal:
            break
    else:
        raise NotFound(f"there is no journal {journal[:100]} in {folder}")
    found, lock = _read(path), JournalLock(path)
    if not lock.take():
        raise FailedPrecondition(f"the journal {journal} is served by a broker: cancel its requests there")
    try:
        with disk_errors(path):
            remove_journal(path)
    finally:
        lock.release(remove=not path.exists())
    return found


def _read(path: Path) -> LyingJournal:
    namespace, application, deployment = path.parts[-4:-1]
    found = (namespace, application, deployment, path.stem, str(path), JournalLock(path).taken)
    try:
        database = open_reader(path)
        with disk_errors(path), contextlib.closing(database):
            counts = Counter(dict(database.execute("SELECT state, COUNT(*) FROM items GROUP BY state")))
            ((size,),) = database.execute("SELECT bytes FROM totals")
    except MeshError as error:
        return LyingJournal(*found, problem=error.message)
    live, dead = counts[State.QUEUED] + counts[State.RUNNING], counts[State.DEAD]
    return LyingJournal(*found, live, dead, sum(counts.values()) - live - dead, size)
