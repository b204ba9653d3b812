"""Tells whether a store is still the one that was followed, or one that came back empty, older or foreign. Pure.

A cluster id and a revision are not enough: a wiped store with the same flags has the same id, and one that is
written to busily is soon beyond the revision that was seen. What both cannot have is the same past.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from serving.store.types import KeyValue, Snapshot


@dataclass(slots=True)
class History:
    """What was seen of one prefix: everything up to `revision`, as (mod, create) revision of each key."""

    cluster_id: int = 0
    revision: int = 0
    known: dict[str, tuple[int, int]] = field(default_factory=dict)
    started: bool = False

    def adopt(self, snapshot: Snapshot) -> bool:
        """Takes over a whole picture. True when it cannot be a later state of what was seen before."""
        replaced = self.started and self.contradicts(snapshot)
        self.started = True
        self.cluster_id = snapshot.cluster_id
        self.revision = snapshot.revision
        self.known = {kv.key: (kv.mod_revision, kv.create_revision) for kv in snapshot.kvs}
        return replaced

    def contradicts(self, snapshot: Snapshot) -> bool:
        """True when the snapshot does not have the past that was seen."""
        if snapshot.cluster_id != self.cluster_id or snapshot.revision < self.revision:
            return True
        return any(self._contradicts_key(kv) for kv in snapshot.kvs)

    def _contradicts_key(self, kv: KeyValue) -> bool:
        mod, create = self.known.get(kv.key, (0, 0))
        if kv.mod_revision <= self.revision:
            return (kv.mod_revision, kv.create_revision) != (mod, create)
        return kv.create_revision <= self.revision and kv.create_revision != create

    def agrees(self, *, cluster_id: int, count: int, newest: KeyValue | None) -> bool:
        """True when the store's own answer about `revision` (number of keys, newest key) is what was seen then."""
        if cluster_id != self.cluster_id or count != len(self.known):
            return False
        if newest is None:
            return not self.known
        return self.known.get(newest.key) == (newest.mod_revision, newest.create_revision) and (
            newest.mod_revision == max(mod for mod, _ in self.known.values())
        )

    def apply(self, puts: Iterable[KeyValue], deletes: Iterable[str], revision: int) -> None:
        """Takes over changes."""
        for key in deletes:
            self.known.pop(key, None)
        for kv in puts:
            self.known[kv.key] = (kv.mod_revision, kv.create_revision)
        self.revision = max(self.revision, revision)
