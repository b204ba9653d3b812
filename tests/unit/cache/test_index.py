"""Nearest vectors: small scopes, graphs, removal, and written graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from serving.cache.index import GRAPH_FROM, ScopeIndex, Vectors

DIMENSION = 16


def vectors(count: int, seed: int = 0) -> Vectors:
    made = np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def filled(count: int) -> tuple[ScopeIndex, Vectors]:
    index, made = ScopeIndex(DIMENSION), vectors(count)
    index.add(list(range(100, 100 + count)), made)
    return index, made


@pytest.mark.parametrize("count", [1, 7, GRAPH_FROM - 1, GRAPH_FROM, GRAPH_FROM + 50])
def test_each_vector_is_its_own_nearest(count: int) -> None:
    index, made = filled(count)
    assert len(index) == count
    assert index.is_graph == (count >= GRAPH_FROM)
    found = [index.search(made[place], 3) for place in range(0, count, 13)]
    right = sum(hits[0][1] == 100 + place for hits, place in zip(found, range(0, count, 13), strict=True))
    assert right >= 0.99 * len(found)  # a graph is approximate
    assert all(hits == sorted(hits, reverse=True) for hits in found)
    assert found[0][0][0] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("count", [50, GRAPH_FROM + 400])
def test_removed_vectors_are_never_found_again(count: int) -> None:
    index, made = filled(count)
    gone = set(range(100, 100 + count, 3))
    for entry in gone:
        index.remove(entry)
    index.remove(5)  # was never there
    assert len(index) == count - len(gone)
    for place in range(count):
        hits = index.search(made[place], 4)
        assert hits
        assert not {entry for _, entry in hits} & gone
    kept = [place for place in range(count) if 100 + place not in gone]
    right = sum(index.search(made[place], 1)[0][1] == 100 + place for place in kept)
    assert right >= 0.98 * len(kept)


def test_everything_removed_leaves_nothing() -> None:
    index, made = filled(GRAPH_FROM)
    for entry in range(100, 100 + GRAPH_FROM):
        index.remove(entry)
    assert index.search(made[0], 5) == []
    assert len(index) == 0
    index.add([1], made[:1])
    assert index.search(made[0], 5)[0][1] == 1


def test_a_written_graph_is_read_back_without_what_is_gone(tmp_path: Path) -> None:
    index, made = filled(GRAPH_FROM + 10)
    index.write(tmp_path / "graph")
    again = ScopeIndex(DIMENSION)
    wanted = frozenset(range(103, 100 + GRAPH_FROM + 20))
    assert again.read(tmp_path / "graph", wanted)
    assert len(again) == GRAPH_FROM + 7
    assert again.search(made[0], 3)[0][1] >= 103
    assert again.missing(sorted(wanted)) == list(range(100 + GRAPH_FROM + 10, 100 + GRAPH_FROM + 20))


def test_graphs_that_do_not_fit_are_not_read(tmp_path: Path) -> None:
    index, _ = filled(GRAPH_FROM)
    path = tmp_path / "graph"
    index.write(path)
    whole = path.read_bytes()
    every = frozenset(range(100, 100 + GRAPH_FROM))
    for damaged in (b"", b"rubbish", whole[: len(whole) // 2], whole[:-10]):
        path.write_bytes(damaged)
        assert not ScopeIndex(DIMENSION).read(path, every)
    path.write_bytes(whole)
    assert not ScopeIndex(DIMENSION + 1).read(path, every)
    assert not ScopeIndex(DIMENSION).read(path, frozenset(range(100, 200)))  # nearly all of it is dead
    assert not ScopeIndex(DIMENSION).read(tmp_path / "none", every)
    assert ScopeIndex(DIMENSION).read(path, every)
