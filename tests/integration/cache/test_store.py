"""The store on a real file: bounds, time, invalidation, threads, damage, another embedder."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.cache.index import GRAPH_FROM, Vectors
from serving.cache.scope import Asked, Scope, scope_of
from serving.cache.store import EntryStore, Limits
from serving.errors import FailedPrecondition, Unavailable

DIMENSION = 16


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def scope(text: str, tenant: str = "t", model: str = "m") -> Scope:
    found = scope_of(Asked(tenant, model, "1", {"messages": [{"role": "user", "content": text}]}))
    assert isinstance(found, Scope)
    return found


def vector(number: int) -> Vectors:
    made = np.random.default_rng(number).standard_normal(DIMENSION).astype(np.float32)
    return made / np.float32(np.linalg.norm(made))


def opened(folder: Path, clock: Clock | None = None, embedder: str = "e", **limits: object) -> EntryStore:
    return EntryStore(folder, DIMENSION, embedder, Limits(**limits), clock or Clock())  # type: ignore[arg-type]


def fill(store: EntryStore, count: int, **put: Any) -> None:
    for number in range(count):
        assert store.put(scope(f"q{number}"), b"answer %d" % number, vector(number), **put)


def found(store: EntryStore, count: int) -> list[int]:
    return [number for number in range(count) if store.find(scope(f"q{number}").key) is not None]


def test_what_was_put_is_found_again_after_a_restart(tmp_path: Path) -> None:
    store = opened(tmp_path)
    fill(store, 20)
    store.close()
    store.close()
    with pytest.raises(Unavailable):
        store.find(b"")
    again = opened(tmp_path)
    assert found(again, 20) == list(range(20))
    entry = again.find(scope("q7").key)
    assert entry is not None
    assert (entry.answer, entry.text, entry.tenant) == (b"answer 7", "q7", "t")
    cosine, number = again.nearest(scope("x").digest, vector(7), 1)[0]
    assert cosine == pytest.approx(1, abs=1e-5)
    assert number == entry.id
    assert again.nearest(scope("x", tenant="other").digest, vector(7), 5) == []
    again.close()


def test_a_second_answer_replaces_the_first(tmp_path: Path) -> None:
    store = opened(tmp_path)
    fill(store, 3)
    store.put(scope("q1"), b"new", vector(1), tags=["news"])
    entry = store.find(scope("q1").key)
    assert entry is not None
    assert entry.answer == b"new"
    assert store.count == 3
    assert len(store.nearest(scope("x").digest, vector(1), 10)) == 3
    store.close()


def test_entries_end_with_their_time(tmp_path: Path) -> None:
    clock = Clock()
    store = opened(tmp_path, clock, ttl_s=10)
    fill(store, 4)
    store.put(scope("long"), b"x", vector(9), ttl_s=100)
    clock.now += 10
    assert found(store, 4) == []
    assert store.entry(store.nearest(scope("x").digest, vector(0), 1)[0][1]) is None
    assert store.sweep() == store.expired == 4
    assert store.count == 1
    assert len(store.nearest(scope("x").digest, vector(0), 10)) == 1
    store.close()


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    clock = Clock()
    store = opened(tmp_path, clock, max_entries=10)
    for number in range(10):
        clock.now += 1
        store.put(scope(f"q{number}"), b"x", vector(number))
    used = store.find(scope("q0").key)
    assert used is not None
    clock.now += 1
    store.use(used)
    for number in range(10, 13):
        clock.now += 1
        store.put(scope(f"q{number}"), b"x", vector(number))
    assert found(store, 13) == [0, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    assert store.evicted == 3
    store.put(scope("q12"), b"again", vector(12))
    assert store.count == 10
    assert store.evicted == 3
    store.close()


def test_the_least_often_used_goes_first_when_asked_so(tmp_path: Path) -> None:
    clock = Clock()
    store = opened(tmp_path, clock, max_entries=3, evict="lfu")
    fill(store, 3)
    for number, uses in ((0, 2), (1, 1), (2, 3)):
        entry = store.find(scope(f"q{number}").key)
        assert entry is not None
        for _ in range(uses):
            store.use(entry)
    store.put(scope("q3"), b"x", vector(3))
    assert found(store, 4) == [0, 2, 3]
    store.close()


def test_bytes_are_bounded(tmp_path: Path) -> None:
    store = opened(tmp_path, max_bytes=20_000, max_answer_bytes=8_000)
    assert not store.put(scope("huge"), b"x" * 8_001, None)
    for number in range(30):
        assert store.put(scope(f"q{number}"), b"x" * 3_000, vector(number))
        assert store.size_bytes <= 20_000
    assert found(store, 30)[-1] == 29
    count, size = store.count, store.size_bytes
    store.close()
    again = opened(tmp_path, max_bytes=20_000)
    assert (again.count, again.size_bytes) == (count, size)
    again.close()


def test_invalidation_by_model_scope_tag_and_all(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for tenant in ("a", "b"):
        for model in ("m", "n"):
            for number in range(3):
                tags = ["even"] if number % 2 == 0 else ["odd"]
                store.put(scope(f"q{number}", tenant, model), b"x", vector(number), tags)
    assert store.remove(tenant="a", model="n") == 3
    assert store.remove(tag="even") == 6
    assert store.remove(tag="even") == 0
    assert store.remove(scope=scope("x", "b", "m").digest) == 1
    assert store.remove(tenant="nobody") == 0
    assert store.count == 2
    assert store.nearest(scope("x", "b", "m").digest, vector(0), 5) == []
    assert len(store.nearest(scope("x", "b", "n").digest, vector(0), 5)) == 1
    assert store.remove() == 2
    assert (store.count, store.size_bytes) == (0, 0)
    store.close()


def test_another_embedder_begins_anew(tmp_path: Path) -> None:
    store = opened(tmp_path)
    fill(store, 3)
    store.close()
    other = opened(tmp_path, embedder="other")
    assert other.count == 0
    other.close()


def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "cache.sqlite").write_bytes(b"this is no database" * 1000)
    store = opened(tmp_path)
    fill(store, 3)
    assert found(store, 3) == [0, 1, 2]
    assert len(list(tmp_path.glob("cache.sqlite.damaged-*"))) == 1
    store.close()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FailedPrecondition, match="file"):
        opened(tmp_path / "file")


def test_graphs_are_written_read_back_and_rebuilt_where_they_do_not_fit(tmp_path: Path) -> None:
    store = opened(tmp_path)
    count = GRAPH_FROM + 20
    fill(store, count)
    store.close()
    (graph,) = tmp_path.glob("graph-*.faiss")
    for step in ("fits", "older than the entries", "damaged", "missing"):
        again = opened(tmp_path)
        assert again.nearest(scope("x").digest, vector(5), 1)[0][0] == pytest.approx(1, abs=1e-4), step
        if step == "fits":
            whole = graph.read_bytes()
            again.put(scope("late"), b"x", vector(70_000))
            again.remove(key=scope("q6").key)
        else:
            assert again.nearest(scope("x").digest, vector(70_000), 1)[0][0] == pytest.approx(1, abs=1e-4), step
            assert again.nearest(scope("x").digest, vector(6), 1)[0][0] < 0.99, step
        again.close()
        if step == "fits":
            graph.write_bytes(whole)
        elif step == "older than the entries":
            graph.write_bytes(whole[:1000])
        else:
            graph.unlink()


def test_threads_share_a_store(tmp_path: Path) -> None:
    store = opened(tmp_path, max_entries=200)
    failed: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for step in range(150):
                number = (seed * 31 + step) % 300
                store.put(scope(f"q{number}"), b"answer %d" % number, vector(number))
                entry = store.find(scope(f"q{number}").key)
                if entry is not None:
                    assert entry.answer == b"answer %d" % number
                    store.use(entry)
                store.nearest(scope("x").digest, vector(number), 3)
                if step % 50 == 49:
                    store.remove(key=scope(f"q{number}").key)
        except BaseException as error:  # noqa: BLE001 - shown by the test
            failed.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert store.count <= 200
    assert store.count == len(found(store, 300))
    assert len(store.nearest(scope("x").digest, vector(1), 500)) == store.count
    store.close()


def test_a_hit_at_once_waits_for_nobody_and_writes_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    fill(store, 1)
    key = scope("q0").key
    assert store.hit_at_once(key, lambda _: False) is None
    found = store.hit_at_once(key, lambda entry: entry.text == "q0")
    assert found is not None
    assert found.answer == b"answer 0"
    assert store.hit_at_once(b"unknown", lambda _: True) is None
    busy, over = threading.Event(), threading.Event()

    def hold() -> None:
        with store._lock:
            busy.set()
            over.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert busy.wait(30)
    assert store.hit_at_once(key, lambda _: True) is None
    over.set()
    thread.join(30)
    assert store.hit_at_once(key, lambda _: True) is not None
    store.close()
    assert store.hit_at_once(key, lambda _: True) is None
    again = opened(tmp_path)
    assert again._db.execute("SELECT hits FROM entries").fetchone() == (2,)
    again.close()


def test_uses_are_written_a_thousand_at_a_time(tmp_path: Path) -> None:
    store = opened(tmp_path)
    fill(store, 1001)
    entries = [store.find(scope(f"q{number}").key) for number in range(1001)]
    for entry in entries[:999]:
        assert entry is not None
        store.use(entry)
    assert store.hit_at_once(scope("q1000").key, lambda _: True) is None
    assert store._db.execute("SELECT sum(hits) FROM entries").fetchone() == (0,)
    last = entries[1000]
    assert last is not None
    store.use(last)
    assert store._db.execute("SELECT sum(hits) FROM entries").fetchone() == (1000,)
    assert store.hit_at_once(scope("q1000").key, lambda _: True) is not None
    store.close()
