"""A store that came back empty, older or foreign is told from one that only went on."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import assume, given
from hypothesis import strategies as st

from serving.store.history import History
from serving.store.types import KeyValue, Snapshot

KEYS = ("/a", "/b", "/c", "/d")
Step = tuple[str, bool]  # key, put (else delete)
steps = st.lists(st.tuples(st.sampled_from(KEYS), st.booleans()), max_size=30)


class Store:
    """What etcd does to revisions, in memory: the model that histories are checked against."""

    def __init__(self, cluster_id: int = 7) -> None:
        self.cluster_id = cluster_id
        self.revision = 1
        self.kvs: dict[str, KeyValue] = {}

    def apply(self, done: Sequence[Step]) -> Store:
        for key, put in done:
            if not put and key not in self.kvs:
                continue
            self.revision += 1
            old = self.kvs.pop(key, None)
            if put:
                create = old.create_revision if old else self.revision
                self.kvs[key] = KeyValue(key, b"v%d" % self.revision, create, self.revision, 1, 0)
        return self

    def snapshot(self) -> Snapshot:
        return Snapshot(tuple(self.kvs[key] for key in sorted(self.kvs)), self.revision, self.cluster_id)

    def newest(self) -> KeyValue | None:
        return max(self.kvs.values(), key=lambda kv: kv.mod_revision, default=None)


def followed(store: Store) -> History:
    history = History()
    assert history.adopt(store.snapshot()) is False
    return history


@given(steps, steps)
def test_a_store_that_went_on_is_never_taken_for_a_replaced_one(before: list[Step], after: list[Step]) -> None:
    store = Store().apply(before)
    history = followed(store)
    assert history.agrees(cluster_id=7, count=len(store.kvs), newest=store.newest())
    store.apply(after)
    assert history.adopt(store.snapshot()) is False
    assert history.revision == store.revision


@given(steps, steps)
def test_a_wiped_store_is_found_out_although_it_is_beyond_the_revision(before: list[Step], new: list[Step]) -> None:
    store = Store().apply(before)
    history = followed(store)
    wiped = Store()
    wiped.apply(new)
    then = {kv.key: (kv.mod_revision, kv.create_revision) for kv in store.kvs.values()}
    old = [kv for kv in wiped.kvs.values() if kv.mod_revision <= store.revision]
    if any(then.get(kv.key) != (kv.mod_revision, kv.create_revision) for kv in old):
        assert history.contradicts(wiped.snapshot())
    newest = wiped.newest()
    other_newest = newest is not None and then.get(newest.key) != (newest.mod_revision, newest.create_revision)
    if len(wiped.kvs) != len(then) or other_newest:
        assert not history.agrees(cluster_id=7, count=len(wiped.kvs), newest=newest)


@given(steps.filter(bool), st.integers(0, 29))
def test_an_older_store_is_found_out(done: list[Step], kept: int) -> None:
    store = Store().apply(done)
    history = followed(store)
    older = Store().apply(done[: min(kept, len(done) - 1)])
    assume(older.revision < store.revision)
    assert history.adopt(older.snapshot()) is True
    assert history.revision == older.revision


@given(steps)
def test_another_cluster_is_found_out(done: list[Step]) -> None:
    store = Store().apply(done)
    history = followed(store)
    foreign = Store(cluster_id=8).apply(done)
    assert not history.agrees(cluster_id=8, count=len(foreign.kvs), newest=foreign.newest())
    assert history.adopt(foreign.snapshot()) is True


@given(steps, steps)
def test_following_changes_is_as_good_as_listing(before: list[Step], after: list[Step]) -> None:
    store = Store().apply(before)
    history = followed(store)
    for step in after:
        known = set(store.kvs)
        store.apply([step])
        newest = store.newest()
        puts = [newest] if newest is not None and step[1] else []
        history.apply(puts, known - set(store.kvs), store.revision)
    assert history.agrees(cluster_id=7, count=len(store.kvs), newest=store.newest())
    assert history.known == followed(store).known


def test_a_key_that_should_have_been_seen_is_a_contradiction() -> None:
    history = followed(Store().apply([("/a", True), ("/b", True)]))
    missed = KeyValue("/c", b"", create_revision=2, mod_revision=9, version=3, lease=0)
    assert history.contradicts(Snapshot((missed,), 9, 7))
    recreated = KeyValue("/a", b"", create_revision=8, mod_revision=9, version=2, lease=0)
    assert not history.contradicts(Snapshot((recreated,), 9, 7))
