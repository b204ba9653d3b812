"""What a cache knows of a prefix, and what it believes after the store was replaced. Pure: time is an argument."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from serving.store.types import Changes, KeyValue, Snapshot

Prefer = Callable[[KeyValue, KeyValue], KeyValue]


def prefer_found(_remembered: KeyValue, found: KeyValue) -> KeyValue:
    return found


@dataclass(frozen=True, slots=True)
class Carried:
    """An entry that a replaced store does not hold, kept until its owner writes it again or the grace ends."""

    kv: KeyValue
    until_s: float


class CacheState:
    """The store's keys, with the carried ones laid over them.

    When the store is replaced, what it lacks is carried: absence in such a store proves nothing. Of a key that it holds
    with another value, `prefer(remembered, found)` picks the one to show; the remembered one is then carried too. A
    carried entry ends when its key is written, when somebody knows it to be dead (`drop`), or after `grace_s` of a live
    connection.
    """

    def __init__(self, *, grace_s: float, prefer: Prefer = prefer_found) -> None:
        self._grace_s = grace_s
        self._prefer = prefer
        self._store: dict[str, KeyValue] = {}
        self._carried: dict[str, Carried] = {}
        self._paused_at_s: float | None = None
        self.revision = 0
        self.cluster_id = 0
        self.synced = False

    # ------------------------------------------------------------------------------------------------------- reading

    def get(self, key: str) -> KeyValue | None:
        carried = self._carried.get(key)
        return carried.kv if carried is not None else self._store.get(key)

    def entries(self) -> dict[str, KeyValue]:
        """A copy, in the order of the keys."""
        merged = self._store | {key: carried.kv for key, carried in self._carried.items()}
        return dict(sorted(merged.items()))

    def is_carried(self, key: str) -> bool:
        return key in self._carried

    def carried(self) -> frozenset[str]:
        return frozenset(self._carried)

    def next_expiry_s(self) -> float | None:
        """When the next carried entry ends; None when there is none, or while the connection is gone."""
        if self._paused_at_s is not None or not self._carried:
            return None
        return min(carried.until_s for carried in self._carried.values())

    # ------------------------------------------------------------------------------------- changing: changed keys out

    def resync(self, snapshot: Snapshot, *, replaced: bool, now_s: float) -> frozenset[str]:
        self._resume(now_s)
        before = self.entries()
        found = {kv.key: kv for kv in snapshot.kvs}
        if replaced:
            for key, kv in before.items():
                self._judge(key, kv, found.get(key), now_s)
        else:
            for key in found.keys() & self._carried.keys():
                if found[key] != self._store.get(key):
                    del self._carried[key]  # written since
        self._store = found
        self.revision, self.cluster_id, self.synced = snapshot.revision, snapshot.cluster_id, True
        return _difference(before, self.entries())

    def _judge(self, key: str, kv: KeyValue, found: KeyValue | None, now_s: float) -> None:
        """Carries what a replaced store lost. What was carried before keeps its end."""
        if found is None or (found.value != kv.value and self._prefer(kv, found) is kv):
            self._carried.setdefault(key, Carried(kv, now_s + self._grace_s))
        else:
            self._carried.pop(key, None)

    def changes(self, changes: Changes, *, now_s: float) -> frozenset[str]:
        self._resume(now_s)
        touched = {kv.key for kv in changes.puts} | set(changes.deletes)
        before = {key: self.get(key) for key in touched}
        for kv in changes.puts:
            self._store[kv.key] = kv
            self._carried.pop(kv.key, None)
        for key in changes.deletes:
            if self._store.pop(key, None) is None:
                self._carried.pop(key, None)  # written and removed again within one batch
        self.revision = max(self.revision, changes.revision)
        return frozenset(key for key in touched if self.get(key) != before[key])

    def pause(self, now_s: float) -> None:
        """The connection is gone: nobody could write, so the grace does not run."""
        if self._paused_at_s is None:
            self._paused_at_s = now_s

    def _resume(self, now_s: float) -> None:
        if self._paused_at_s is None:
            return
        lost_s = now_s - self._paused_at_s
        self._paused_at_s = None
        self._carried = {key: Carried(item.kv, item.until_s + lost_s) for key, item in self._carried.items()}

    def expire(self, now_s: float) -> frozenset[str]:
        """Ends what was carried for long enough."""
        if self._paused_at_s is not None:
            return frozenset()
        over = [key for key, carried in self._carried.items() if carried.until_s <= now_s]
        return frozenset(key for key in over if self.drop(key))

    def drop(self, key: str) -> bool:
        """Ends a carried entry now; what the store holds shows again. True when it changed what `get` answers."""
        carried = self._carried.pop(key, None)
        return carried is not None and self._store.get(key) != carried.kv


def _difference(before: dict[str, KeyValue], after: dict[str, KeyValue]) -> frozenset[str]:
    return frozenset(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
