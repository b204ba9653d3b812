"""Where answers are kept: SQLite for the entries, an index in memory for each scope's vectors; bounded and evicting.

It is GPTCache's `DataManager`. Thread-safe: one lock, held for as long as one statement and one search take.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import faiss
import numpy as np

from serving.cache.gptcache_frame import Answer, CacheData, DataManager
from serving.cache.index import GRAPH_FROM, ScopeIndex, Vectors
from serving.cache.schema import open_database
from serving.cache.scope import Scope
from serving.errors import Conflict, InvalidArgument, NotSupported, Unavailable

_ROW_BYTES: Final = 400  # what SQLite and the tables in memory need for an entry besides what is in it
_USES_KEPT: Final = 1000  # uses are written together: a crash loses at most so many of them
_REMOVALS_KEPT: Final = 1000  # before these, any removal counts as one of everything
_EVICTED_SHARE: Final = 0.01  # more than needed goes at once, so that not every put evicts
_INSERT: Final = (
    "INSERT INTO entries"
    " (key, scope, tenant, model, revision, text, answer, vector, created, expires, used, hits, size)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?)"
)
_Gone = tuple[int, bytes, int]  # id, scope, size
_COLUMNS: Final = "id, key, scope, tenant, model, revision, text, answer, created, expires, learned"


@dataclass(frozen=True, slots=True)
class Limits:
    """`evict`: `lru` takes what was not used for longest, `lfu` what was used least often (then for longest)."""

    max_entries: int = 100_000
    max_bytes: int = 2 * 1024**3
    max_answer_bytes: int = 1024**2
    ttl_s: float = 24 * 3600
    evict: Literal["lru", "lfu"] = "lru"


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One stored answer. `answer` is the caller's bytes; `learned` what an error bound knows of it."""

    id: int
    key: bytes
    scope: bytes
    tenant: str
    model: str
    revision: str
    text: str
    answer: bytes
    created: float
    expires: float
    learned: bytes | None


@dataclass(frozen=True, slots=True)
class Searched:
    """What GPTCache hands from the embedding to the search. Entries of a lower cosine than `floor` are not wanted."""

    scope: bytes
    vector: Vectors
    floor: float = -1.0


@dataclass(frozen=True, slots=True)
class Removal:
    """What `remove` was asked for; None is anything."""

    tenant: str | None = None
    model: str | None = None
    scope: bytes | None = None
    tag: str | None = None
    key: bytes | None = None

    def covers(self, scope: Scope, tags: Collection[str]) -> bool:
        """Whether it would have removed an answer of that scope."""
        wanted = (self.tenant, self.model, self.scope, self.key)
        same = zip(wanted, (scope.tenant, scope.model, scope.digest, scope.key), strict=True)
        return all(value in (None, own) for value, own in same) and (self.tag is None or self.tag in tags)


class EntryStore(DataManager):  # type: ignore[misc]
    """Opens or begins `folder/cache.sqlite`. Raises `FailedPrecondition` when that cannot be written."""

    def __init__(
        self, folder: Path, dimension: int, embedder: str, limits: Limits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        faiss.omp_set_num_threads(1)  # one search is too short for several
        self._limits = limits or Limits()
        if min(self._limits.max_entries, self._limits.max_bytes, self._limits.max_answer_bytes) < 1:
            raise InvalidArgument(f"limits of the cache must be at least 1: {self._limits}")
        self._folder = folder
        self._dimension = dimension
        self._clock = clock
        self._lock = threading.RLock()
        self._uses: dict[int, tuple[float, int]] = {}
        self._indexes: dict[bytes, ScopeIndex] = {}
        self._removals: deque[Removal] = deque(maxlen=_REMOVALS_KEPT)
        self._closed = False
        self.moment = 0  # counts removals: what was generated since an earlier one may be out of date
        self.evicted = 0
        self.expired = 0
        self._db, self._id = open_database(folder / "cache.sqlite", f"{embedder}/{dimension}")
        row = self._db.execute("SELECT count(*), coalesce(sum(size), 0) FROM entries").fetchone()
        self._entries, self._bytes = int(row[0]), int(row[1])
        self._load()

    @property
    def count(self) -> int:
        return self._entries

    @property
    def size_bytes(self) -> int:
        return self._bytes

    # -- reading

    def find(self, key: bytes) -> Entry | None:
        """The exact tier."""
        with self._open():
            return self._entry("key", key)

    def hit_at_once(self, key: bytes, fits: Callable[[Entry], bool]) -> Entry | None:
        """`find` and `use` in one, for an event loop: nothing, too, where that would have to wait or write."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            if self._closed or len(self._uses) >= _USES_KEPT - 1:
                return None
            entry = self._entry("key", key)
            if entry is None or not fits(entry):
                return None
            self.use(entry)
            return entry
        finally:
            self._lock.release()

    def nearest(self, scope: bytes, vector: Vectors, count: int) -> list[tuple[float, int]]:
        """(cosine, id) of a scope's entries, nearest first."""
        with self._open():
            index = self._indexes.get(scope)
            return index.search(vector, count) if index is not None else []

    def entry(self, number: int) -> Entry | None:
        with self._open():
            return self._entry("id", number)

    def _entry(self, column: str, value: object) -> Entry | None:
        row = self._db.execute(f"SELECT {_COLUMNS} FROM entries WHERE {column} = ?", (value,)).fetchone()
        return Entry(*row) if row is not None and row[9] > self._clock() else None

    def use(self, entry: Entry) -> None:
        """Counts a hit, for eviction."""
        with self._open():
            self._uses[entry.id] = (self._clock(), self._uses.get(entry.id, (0.0, 0))[1] + 1)
            if len(self._uses) >= _USES_KEPT:
                with self._transaction():
                    self._write_uses()

    # -- writing

    def put(
        self,
        scope: Scope,
        answer: bytes,
        vector: Vectors | None,
        tags: Collection[str] = (),
        ttl_s: float | None = None,
        since: int | None = None,
    ) -> bool:
        """Keeps an answer, instead of an earlier one of the same key. False: it is larger than the limits allow.

        `vector` (float32 [dimension], length 1) is None for what only the exact tier may find. `since` is the `moment`
        at which its generation began: raises `Conflict` when such answers were removed after it.
        """
        blob = vector.tobytes() if vector is not None else None
        size = _ROW_BYTES + len(answer) + len(scope.text.encode()) + (len(blob) * 2 if blob else 0)
        if len(answer) > self._limits.max_answer_bytes or size > self._limits.max_bytes:
            return False
        now = self._clock()
        expires = now + (self._limits.ttl_s if ttl_s is None else ttl_s)
        named = (scope.key, scope.digest, scope.tenant, scope.model, scope.revision, scope.text)
        row = (*named, answer, blob, now, expires, now, size)
        with self._open():
            if since is not None and self._removed_since(since, scope, tags):
                raise Conflict("answers like it were removed while it was generated")
            with self._transaction():
                gone = self._make_room(size, now, self._delete("key = ?", (scope.key,)))
                number = int(self._db.execute(_INSERT, row).lastrowid or 0)
                self._db.executemany("INSERT OR IGNORE INTO tags VALUES (?, ?)", [(tag, number) for tag in tags])
            self._forget(gone)
            self._entries, self._bytes = self._entries + 1, self._bytes + size
            if vector is not None:
                self._index(scope.digest).add([number], vector[None])
        return True

    def _removed_since(self, moment: int, scope: Scope, tags: Collection[str]) -> bool:
        later = self.moment - moment
        if later > len(self._removals):
            return True
        return any(removal.covers(scope, tags) for removal in list(self._removals)[len(self._removals) - later :])

    def learn(self, entry: Entry, learned: bytes) -> None:
        """Keeps what an error bound knows of an entry; nothing where that is gone."""
        with self._open():
            self._db.execute("UPDATE entries SET learned = ? WHERE id = ?", (learned, entry.id))

    def remove(
        self,
        *,
        tenant: str | None = None,
        model: str | None = None,
        scope: bytes | None = None,
        tag: str | None = None,
        key: bytes | None = None,
    ) -> int:
        """Removes what fits all that is given; everything when nothing is. Answers how many entries are gone."""
        given = {"tenant = ?": tenant, "model = ?": model, "scope = ?": scope, "key = ?": key,
                 "id IN (SELECT id FROM tags WHERE tag = ?)": tag}  # fmt: skip
        chosen = {text: value for text, value in given.items() if value is not None}
        with self._open():
            with self._transaction():
                gone = self._delete(" AND ".join(chosen) or "1", tuple(chosen.values()))
            self._removals.append(Removal(tenant, model, scope, tag, key))
            self.moment += 1
            self._forget(gone)
        return len(gone)

    def sweep(self) -> int:
        """Removes what has expired. Answers how many."""
        with self._open():
            with self._transaction():
                gone = self._delete("expires <= ?", (self._clock(),))
            self._forget(gone)
            self.expired += len(gone)
        return len(gone)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # a full disk has ended it already
                self._db.execute("ROLLBACK")
            raise

    def _delete(self, where: str, values: tuple[object, ...]) -> list[_Gone]:
        return self._db.execute(f"DELETE FROM entries WHERE {where} RETURNING id, scope, size", values).fetchall()

    def _forget(self, gone: Sequence[_Gone]) -> None:
        """Takes deleted rows out of memory, after the commit."""
        for number, scope, size in gone:
            self._entries, self._bytes = self._entries - 1, self._bytes - size
            self._uses.pop(number, None)
            index = self._indexes.get(scope)
            if index is not None:
                index.remove(number)
                if not len(index):
                    del self._indexes[scope]

    def _make_room(self, size: int, now: float, gone: list[_Gone]) -> list[_Gone]:
        """Expired ones first; then by use, until one more of `size` bytes fits. Answers `gone` with what went."""
        if self._fits(size, gone):
            return gone
        expired = self._delete("expires <= ?", (now,))
        self.expired += len(expired)
        gone = gone + expired
        self._write_uses()
        order = "used, id" if self._limits.evict == "lru" else "hits, used, id"
        while not self._fits(size, gone):
            left = self._entries - len(gone)
            count = max(1, int(left * _EVICTED_SHARE), left + 1 - self._limits.max_entries)
            taken = self._delete(f"id IN (SELECT id FROM entries ORDER BY {order} LIMIT ?)", (count,))
            self.evicted += len(taken)
            gone = gone + taken
        return gone

    def _fits(self, size: int, gone: list[_Gone]) -> bool:
        held = self._bytes - sum(row[2] for row in gone)
        return self._entries - len(gone) < self._limits.max_entries and held + size <= self._limits.max_bytes

    def _write_uses(self) -> None:
        rows = [(moment, hits, number) for number, (moment, hits) in self._uses.items()]
        self._uses.clear()
        self._db.executemany("UPDATE entries SET used = ?, hits = hits + ? WHERE id = ?", rows)

    # -- the index

    def _index(self, scope: bytes) -> ScopeIndex:
        return self._indexes.setdefault(scope, ScopeIndex(self._dimension))

    def _graph_path(self, scope: bytes) -> Path:
        return self._folder / f"graph-{self._id}-{scope.hex()}.faiss"

    def _load(self) -> None:
        """Written graphs where they fit, everything else from SQLite."""
        known = set()
        for (scope,) in self._db.execute("SELECT DISTINCT scope FROM entries WHERE vector IS NOT NULL").fetchall():
            rows = self._db.execute(
                "SELECT id FROM entries WHERE scope = ? AND vector IS NOT NULL", (scope,)
            ).fetchall()
            numbers = [int(row[0]) for row in rows]
            index = self._index(scope)
            if len(numbers) >= GRAPH_FROM // 2 and index.read(self._graph_path(scope), frozenset(numbers)):
                known.add(self._graph_path(scope))
            missing = index.missing(numbers)
            for start in range(0, len(missing), 500):
                part = missing[start : start + 500]
                marks = ",".join("?" * len(part))
                found = self._db.execute(f"SELECT id, vector FROM entries WHERE id IN ({marks})", part).fetchall()
                vectors = np.frombuffer(b"".join(row[1] for row in found), np.float32).reshape(len(found), -1)
                index.add([int(row[0]) for row in found], vectors)
        for path in self._folder.glob("graph-*"):
            if path not in known:
                path.unlink(missing_ok=True)

    # -- GPTCache's DataManager

    def search(self, embedding_data: Searched, **kwargs: Any) -> list[tuple[float, int]]:
        found = self.nearest(embedding_data.scope, embedding_data.vector, max(int(kwargs.get("top_k", 1)), 1))
        return [pair for pair in found if pair[0] >= embedding_data.floor]

    def get_scalar_data(self, res_data: tuple[float, int], **kwargs: Any) -> CacheData | None:
        del kwargs
        entry = self.entry(res_data[1])
        return None if entry is None else CacheData(question=entry, answers=[Answer(entry)])

    def save(self, question: Any, answer: Any, embedding_data: Any, **kwargs: Any) -> None:
        self.put(question, answer, embedding_data.vector, **kwargs)

    def import_data(self, questions: Any, answers: Any, embedding_datas: Any, session_ids: Any) -> None:
        del session_ids
        for question, answer, data in zip(questions, answers, embedding_datas, strict=True):
            self.save(question, answer, data)

    def add_session(self, res_data: Any, session_id: Any, pre_embedding_data: Any) -> None:
        del res_data, session_id, pre_embedding_data
        raise NotSupported("sessions of GPTCache: the scope keeps conversations apart")

    def list_sessions(self, session_id: Any = None, key: Any = None) -> list[Any]:
        del session_id, key
        return []

    def delete_session(self, session_id: Any) -> None:
        del session_id
        raise NotSupported("sessions of GPTCache: the scope keeps conversations apart")

    def flush(self) -> None:
        """Writes uses and graphs. What was put is written already."""
        with self._open():
            with self._transaction():
                self._write_uses()
            for scope, index in self._indexes.items():
                if index.is_graph:
                    index.write(self._graph_path(scope))

    def close(self) -> None:
        """May be repeated: GPTCache closes once more at the end of the process."""
        with self._lock:
            if not self._closed:
                self.flush()
                self._closed = True
                self._db.close()

    @contextmanager
    def _open(self) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise Unavailable("the cache is closed")
            yield
