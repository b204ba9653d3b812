"""Nearest vectors inside of each scope, in memory.

A scope of few entries is a matrix that is searched whole; one of many becomes an HNSW graph (FAISS). Removed vectors
stay in a graph as dead ones until a quarter of it is dead; then it is built again. Not thread-safe: its owner locks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import faiss
import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

GRAPH_FROM: Final = 2048  # a matrix of that size is searched in about 0.3 ms
_NEIGHBOURS: Final = 32
_BUILD_EFFORT: Final = 80
_SEARCH_EFFORT: Final = 64
_DEAD_SHARE: Final = 0.25
_FIRST_ROWS: Final = 4


class ScopeIndex:
    """The vectors of one scope; all of length 1, so that the inner product is the cosine."""

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self._rows: Vectors = np.empty((0, dimension), dtype=np.float32)
        self._ids: list[int] = []  # by row; of a graph: by place in it
        self._places: dict[int, int] = {}
        self._graph: Any = None

    def __len__(self) -> int:
        return len(self._places)

    @property
    def is_graph(self) -> bool:
        return self._graph is not None

    def add(self, ids: Sequence[int], vectors: Vectors) -> None:
        for offset, entry in enumerate(ids):
            self._places[entry] = len(self._ids) + offset
        if self._graph is not None:
            self._graph.add(vectors)
        else:
            self._grow(len(ids))
            self._rows[len(self._ids) : len(self._ids) + len(ids)] = vectors
        self._ids.extend(ids)
        if self._graph is None and len(self._ids) >= GRAPH_FROM:
            self._to_graph(self._rows[: len(self._ids)])

    def remove(self, entry: int) -> None:
        """Unknown ids are ignored."""
        place = self._places.pop(entry, None)
        if place is None:
            return
        if self._graph is None:
            self._fill_gap(place)
        elif len(self._ids) > GRAPH_FROM and len(self._places) < (1 - _DEAD_SHARE) * len(self._ids):
            self._rebuild()

    def search(self, vector: Vectors, count: int) -> list[tuple[float, int]]:
        """Up to `count` (cosine, id), nearest first."""
        if not self._places or count < 1:
            return []
        if self._graph is None:
            cosines = self._rows[: len(self._ids)] @ vector
            best = (
                np.argsort(-cosines)[:count] if len(cosines) <= count else np.argpartition(-cosines, count - 1)[:count]
            )
            found = [(float(cosines[place]), self._ids[place]) for place in best]
            return sorted(found, key=lambda pair: -pair[0])
        dead = len(self._ids) - len(self._places)
        cosines, places = self._graph.search(vector[None], min(len(self._ids), count + min(dead, 4 * count)))
        pairs = zip(cosines[0].tolist(), places[0].tolist(), strict=True)
        living = ((cosine, place) for cosine, place in pairs if place >= 0)
        return [(cosine, self._ids[place]) for cosine, place in living if self._places.get(self._ids[place]) == place][
            :count
        ]

    def write(self, path: Path) -> None:
        """Graphs only. Either the whole file or none is there afterwards."""
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            np.save(file, np.asarray(self._ids, dtype=np.int64))
            np.save(file, faiss.serialize_index(self._graph))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)

    def read(self, path: Path, wanted: frozenset[int]) -> bool:
        """Takes a written graph where it fits: False, and nothing is changed, where it does not."""
        try:
            with path.open("rb") as file:
                ids: Ids = np.load(file, allow_pickle=False)
                graph: Any = faiss.deserialize_index(np.load(file, allow_pickle=False))
        except (OSError, ValueError, EOFError, RuntimeError):
            return False  # none was written, or it is damaged: what is in SQLite builds it again
        places = {int(entry): place for place, entry in enumerate(ids) if int(entry) in wanted}
        fits = graph.d == self._dimension and graph.ntotal == len(ids) == len(set(ids.tolist()))
        if not fits or len(places) < (1 - _DEAD_SHARE) * len(ids) or len(ids) < GRAPH_FROM:
            return False
        graph.hnsw.efSearch = _SEARCH_EFFORT
        self._graph, self._ids, self._places = graph, ids.tolist(), places
        return True

    def missing(self, wanted: Sequence[int]) -> list[int]:
        return [entry for entry in wanted if entry not in self._places]

    def _grow(self, more: int) -> None:
        if len(self._ids) + more > len(self._rows):
            rows = np.empty((max(_FIRST_ROWS, 2 * len(self._rows), len(self._ids) + more), self._dimension), np.float32)
            rows[: len(self._ids)] = self._rows[: len(self._ids)]
            self._rows = rows

    def _fill_gap(self, place: int) -> None:
        """The last row goes where one was removed."""
        last = self._ids.pop()
        if place < len(self._ids):
            self._rows[place] = self._rows[len(self._ids)]
            self._ids[place] = last
            self._places[last] = place

    def _to_graph(self, vectors: Vectors) -> None:
        self._graph = faiss.IndexHNSWFlat(self._dimension, _NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
        self._graph.hnsw.efConstruction = _BUILD_EFFORT
        self._graph.hnsw.efSearch = _SEARCH_EFFORT
        self._graph.add(vectors)
        self._rows = np.empty((0, self._dimension), dtype=np.float32)

    def _rebuild(self) -> None:
        """Without the dead; a scope that became small is a matrix again."""
        living = [(entry, place) for entry, place in self._places.items()]
        vectors = np.vstack([self._graph.reconstruct(place) for _, place in living])
        self._graph, self._ids, self._places = None, [], {}
        self.add([entry for entry, _ in living], vectors)
