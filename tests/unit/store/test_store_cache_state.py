"""What a cache shows while stores change, go and come back."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from serving.store.cache_state import CacheState
from serving.store.types import Changes, KeyValue, Snapshot

GRACE_S = 60.0


def kv(key: str, value: bytes = b"x", revision: int = 2) -> KeyValue:
    return KeyValue(key, value, revision, revision, 1, 0)


def snapshot(*kvs: KeyValue, revision: int = 10) -> Snapshot:
    return Snapshot(kvs, revision, 1)


def state(*kvs: KeyValue, **options: object) -> CacheState:
    made = CacheState(grace_s=GRACE_S, **options)  # type: ignore[arg-type]
    made.resync(snapshot(*kvs), replaced=False, now_s=0.0)
    return made


def test_an_empty_replaced_store_deletes_nothing() -> None:
    cache = state(kv("/a"), kv("/b"))
    assert cache.resync(snapshot(revision=1), replaced=True, now_s=5.0) == frozenset()
    assert list(cache.entries()) == ["/a", "/b"]
    assert cache.carried() == {"/a", "/b"}


def test_an_empty_store_that_was_only_compacted_deletes() -> None:
    cache = state(kv("/a"))
    assert cache.resync(snapshot(), replaced=False, now_s=5.0) == {"/a"}
    assert cache.entries() == {}


def test_a_carried_entry_ends_when_its_owner_writes() -> None:
    cache = state(kv("/a", b"old"))
    cache.resync(snapshot(revision=1), replaced=True, now_s=5.0)
    assert cache.changes(Changes((kv("/a", b"new"),), (), 2), now_s=6.0) == {"/a"}
    assert cache.carried() == frozenset()
    assert cache.expire(1000.0) == frozenset()
    assert cache.entries()["/a"].value == b"new"


def test_a_carried_entry_ends_with_the_grace_and_not_before() -> None:
    cache = state(kv("/a"), kv("/b"))
    cache.resync(snapshot(kv("/b")), replaced=True, now_s=5.0)
    assert cache.next_expiry_s() == 65.0
    assert cache.expire(64.9) == frozenset()
    assert cache.expire(65.0) == {"/a"}
    assert list(cache.entries()) == ["/b"]


def test_the_grace_stands_still_while_the_connection_is_gone() -> None:
    cache = state(kv("/a"))
    cache.resync(snapshot(revision=1), replaced=True, now_s=0.0)
    cache.pause(10.0)
    assert cache.next_expiry_s() is None
    assert cache.expire(500.0) == frozenset()
    cache.changes(Changes((), (), 1), now_s=500.0)
    assert cache.next_expiry_s() == 550.0
    assert cache.expire(550.0) == {"/a"}


def test_drop_ends_only_what_is_carried() -> None:
    cache = state(kv("/a"), kv("/b"))
    cache.resync(snapshot(kv("/b")), replaced=True, now_s=0.0)
    assert cache.drop("/a") is True
    assert cache.drop("/b") is False
    assert list(cache.entries()) == ["/b"]


def test_of_an_older_store_the_preferred_value_is_shown_until_it_is_written() -> None:
    cache = state(kv("/a", b"9"), prefer=lambda old, new: max(old, new, key=lambda item: item.value))
    cache.resync(snapshot(kv("/a", b"1"), revision=3), replaced=True, now_s=0.0)
    assert cache.entries()["/a"].value == b"9"
    assert cache.expire(GRACE_S) == {"/a"}
    assert cache.entries()["/a"].value == b"1"


def test_the_end_of_an_old_lease_in_an_older_store_does_not_end_what_is_carried() -> None:
    cache = state(kv("/a", b"9"), prefer=lambda old, _: old)
    cache.resync(snapshot(kv("/a", b"1"), revision=3), replaced=True, now_s=0.0)
    assert cache.changes(Changes((), ("/a",), 4), now_s=1.0) == frozenset()
    assert cache.entries()["/a"].value == b"9"


def test_written_and_removed_in_one_batch_is_removed() -> None:
    cache = state(kv("/a"))
    cache.resync(snapshot(revision=1), replaced=True, now_s=0.0)
    assert cache.changes(Changes((), ("/a",), 4), now_s=1.0) == {"/a"}
    assert cache.entries() == {}


KEYS = st.sampled_from(["/a", "/b", "/c"])


class CacheMachine(RuleBasedStateMachine):
    """Against a model: the view is the store, plus what was lost with a replaced one and not heard of since."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = CacheState(grace_s=GRACE_S)
        self.cache.resync(snapshot(revision=1), replaced=False, now_s=0.0)
        self.store: dict[str, KeyValue] = {}
        self.lost: dict[str, tuple[KeyValue, float]] = {}
        self.now_s = 0.0
        self.revision = 1
        self.shown: dict[str, KeyValue] = {}

    def told(self, keys: frozenset[str]) -> None:
        now = self.cache.entries()
        assert keys == {key for key in now.keys() | self.shown.keys() if now.get(key) != self.shown.get(key)}
        self.shown = now

    @rule(key=KEYS)
    def put(self, key: str) -> None:
        self.revision += 1
        self.store[key] = kv(key, b"%d" % self.revision, self.revision)
        self.lost.pop(key, None)
        self.told(self.cache.changes(Changes((self.store[key],), (), self.revision), now_s=self.now_s))

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        if key in self.store:
            self.revision += 1
            del self.store[key]
            self.told(self.cache.changes(Changes((), (key,), self.revision), now_s=self.now_s))

    @rule()
    def relisted(self) -> None:
        self.told(self.cache.resync(self.listed(), replaced=False, now_s=self.now_s))

    @rule(kept=st.sets(KEYS))
    def replaced(self, kept: set[str]) -> None:
        for key, value in self.store.items():
            if key not in kept:
                self.lost[key] = (value, self.now_s + GRACE_S)
        self.store = {key: value for key, value in self.store.items() if key in kept}
        self.told(self.cache.resync(self.listed(), replaced=True, now_s=self.now_s))

    @rule(seconds=st.floats(0.1, 40.0))
    def time(self, seconds: float) -> None:
        self.now_s += seconds
        self.lost = {key: item for key, item in self.lost.items() if item[1] > self.now_s}
        self.told(self.cache.expire(self.now_s))

    def listed(self) -> Snapshot:
        return Snapshot(tuple(self.store.values()), self.revision, 1)

    @invariant()
    def shows_what_is_believed(self) -> None:
        believed = self.store | {key: item[0] for key, item in self.lost.items()}
        assert self.cache.entries() == dict(sorted(believed.items()))
        assert self.cache.carried() == set(self.lost)


CacheMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestCacheMachine = CacheMachine.TestCase
