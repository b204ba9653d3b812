"""Own writes that the watch has not shown yet. Pure.

A watch judges whether the store has been replaced by what the watch has seen. What this process wrote a moment before
the store was rolled back it knows from its own transactions only, so it must look for those itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from serving.store.types import Snapshot


@dataclass(slots=True)
class Unconfirmed:
    """Keys with the revision of our last write of them, until the watch has reached that revision."""

    _writes: dict[str, int] = field(default_factory=dict)
    _highest: int = 0

    def __bool__(self) -> bool:
        return bool(self._highest)

    def wrote(self, keys: Iterable[str], revision: int) -> None:
        """Our transaction wrote (or, without keys, deleted something) in `revision`."""
        self._writes.update(dict.fromkeys(keys, revision))
        self._highest = max(self._highest, revision)

    def reached(self, revision: int) -> None:
        """The watch has shown everything up to `revision`."""
        if revision >= self._highest:
            self.forget()
        else:
            self._writes = {key: at for key, at in self._writes.items() if at > revision}

    def forget(self) -> None:
        self._writes, self._highest = {}, 0

    def covered_by(self, snapshot: Snapshot) -> bool:
        """True when the snapshot is of a time after all our writes."""
        return snapshot.revision >= self._highest

    def contradicted_by(self, snapshot: Snapshot) -> bool:
        """True when a snapshot read after our writes lacks them: revisions of a store, and of a key, only grow."""
        if snapshot.revision < self._highest:
            return True
        return any(kv.mod_revision < self._writes.get(kv.key, 0) for kv in snapshot.kvs)
