"""Everything under /mesh/v1 that a keeper cares for, decoded and joined by application. Pure: fed with key-values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from serving._proto import records_pb2 as pb
from serving.errors import DataLoss
from serving.store import keys
from serving.store.keys import AppKey
from serving.store.records import decode
from serving.store.types import KeyValue

R = TypeVar("R", pb.StoredSpec, pb.Decision, pb.ApplicationStatus, pb.Placement, pb.ClusterRecord)


@dataclass(frozen=True, slots=True)
class Versioned(Generic[R]):
    """A record with the revision of the store in which it was written: what a compare-and-set compares."""

    value: R
    mod_revision: int


@dataclass(slots=True)
class AppState:
    """All keys of one application. Placements by cluster, tombstones by uid, revisions by number."""

    key: AppKey
    spec: Versioned[pb.StoredSpec] | None = None
    decision: Versioned[pb.Decision] | None = None
    status: Versioned[pb.ApplicationStatus] | None = None
    revisions: dict[int, Versioned[pb.StoredSpec]] = field(default_factory=dict)
    placements: dict[str, Versioned[pb.Placement]] = field(default_factory=dict)
    tombstones: dict[str, Versioned[pb.Placement]] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)

    def empty(self) -> bool:
        return not (
            self.spec
            or self.decision
            or self.status
            or self.revisions
            or self.placements
            or self.tombstones
            or self.damaged
        )

    def generation(self) -> int:
        """The highest generation that anything here speaks of; 0: none."""
        found = [placement.value.generation for placement in (*self.placements.values(), *self.tombstones.values())]
        if self.decision:
            found.append(self.decision.value.generation)
        if self.status:
            found.append(self.status.value.generation)
        return max(found, default=0)

    def revision(self, uid: str) -> int:
        """The highest revision that anything here speaks of for this creation of the application; 0: none."""
        found = [stored.value.revision for stored in self.revisions.values() if stored.value.uid == uid]
        found += [placed.value.stored.revision for placed in self.placements.values() if placed.value.stored.uid == uid]
        if self.spec and self.spec.value.uid == uid:
            found.append(self.spec.value.revision)
        if self.status and self.status.value.uid == uid:
            found.append(self.status.value.revision)
        return max(found, default=0)


@dataclass(slots=True)
class Touched:
    """What a batch of changes concerned."""

    apps: set[AppKey] = field(default_factory=set)
    clusters: set[str] = field(default_factory=set)
    reshaped: bool = False  # a cluster came, fell silent, went, or changed its labels

    def add(self, other: Touched) -> None:
        self.apps |= other.apps
        self.clusters |= other.clusters
        self.reshaped |= other.reshaped


class Picture:
    """The decoded store at `revision`."""

    def __init__(self, kvs: Iterable[KeyValue] = (), revision: int = 0) -> None:
        self.apps: dict[AppKey, AppState] = {}
        self.clusters: dict[str, Versioned[pb.ClusterRecord]] = {}
        self.revision = revision
        self._local_deletes: dict[str, int] = {}
        for kv in kvs:
            self.put(kv.key, kv.value, kv.mod_revision)

    def app(self, key: AppKey) -> AppState:
        """The application's keys; an empty state for one that is not known."""
        return self.apps.get(key) or AppState(key)

    def put(self, key: str, value: bytes, mod_revision: int) -> Touched:
        """A key was written. Older news than what is known already is passed over."""
        if self._local_deletes.get(key, 0) > mod_revision:
            return Touched()
        cluster = keys.parse_cluster(key)
        if cluster is not None:
            return self._put_cluster(cluster, value, mod_revision)
        place = _place_of(key)
        if place is None:
            return Touched()
        app, kind, part = place
        state = self.apps.setdefault(app, AppState(app))
        try:
            changed = _put(state, kind, part, value, mod_revision)
            state.damaged.pop(key, None)
        except DataLoss as error:
            state.damaged[key] = error.message
            changed = True
        return Touched({app}) if changed else Touched()

    def delete(self, key: str) -> Touched:
        """A key was deleted."""
        cluster = keys.parse_cluster(key)
        if cluster is not None:
            return Touched(clusters={cluster}) if self.clusters.pop(cluster, None) else Touched()
        place = _place_of(key)
        if place is None or place[0] not in self.apps:
            return Touched()
        app, kind, part = place
        state = self.apps[app]
        state.damaged.pop(key, None)
        _delete(state, kind, part)
        if state.empty():
            del self.apps[app]
        return Touched({app})

    def deleted_here(self, key: str, revision: int) -> Touched:
        """This process deleted the key in `revision`: older news that is still on its way is not believed."""
        self._local_deletes[key] = revision
        return self.delete(key)

    def reached(self, revision: int) -> None:
        """Every change up to `revision` has been fed."""
        self.revision = max(self.revision, revision)
        if self._local_deletes:
            self._local_deletes = {key: at for key, at in self._local_deletes.items() if at > self.revision}

    def _put_cluster(self, name: str, value: bytes, mod_revision: int) -> Touched:
        known = self.clusters.get(name)
        if known is not None and known.mod_revision >= mod_revision:
            return Touched()
        try:
            record = decode(pb.ClusterRecord, value)
        except DataLoss:
            return Touched()  # its agent writes it anew within a second
        record.name = name
        self.clusters[name] = Versioned(record, mod_revision)
        return Touched(clusters={name})


def _place_of(key: str) -> tuple[AppKey, str, str] | None:
    """The application, the kind of record and which of them: `("revisions", "3")`, `("placement", "<cluster>")`."""
    app = keys.parse_app(key)
    if app is not None:
        kind, _, part = app[1].partition("/")
        return app[0], kind, part
    placement = keys.parse_placement(key)
    if placement is not None:
        return placement[1], "placement", placement[0]
    tombstone = keys.parse_deleted(key)
    return (tombstone[0], "tombstone", tombstone[1]) if tombstone else None


def _put(state: AppState, kind: str, part: str, value: bytes, mod: int) -> bool:
    """True when it is news."""
    if kind == "spec":
        if state.spec and state.spec.mod_revision >= mod:
            return False
        state.spec = Versioned(decode(pb.StoredSpec, value), mod)
    elif kind == "decision":
        if state.decision and state.decision.mod_revision >= mod:
            return False
        state.decision = Versioned(decode(pb.Decision, value), mod)
    elif kind == "status":
        if state.status and state.status.mod_revision >= mod:
            return False
        state.status = Versioned(decode(pb.ApplicationStatus, value), mod)
    elif kind == "revisions" and part.isdigit():
        return _put_in(state.revisions, int(part), Versioned(decode(pb.StoredSpec, value), mod))
    elif kind == "placement":
        return _put_in(state.placements, part, Versioned(decode(pb.Placement, value), mod))
    elif kind == "tombstone":
        return _put_in(state.tombstones, part, Versioned(decode(pb.Placement, value), mod))
    else:
        return False
    return True


K = TypeVar("K", int, str)


def _put_in(records: dict[K, Versioned[R]], part: K, record: Versioned[R]) -> bool:
    known = records.get(part)
    if known is not None and known.mod_revision >= record.mod_revision:
        return False
    records[part] = record
    return True


def _delete(state: AppState, kind: str, part: str) -> None:
    if kind == "spec":
        state.spec = None
    elif kind == "decision":
        state.decision = None
    elif kind == "status":
        state.status = None
    elif kind == "revisions" and part.isdigit():
        state.revisions.pop(int(part), None)
    elif kind == "placement":
        state.placements.pop(part, None)
    elif kind == "tombstone":
        state.tombstones.pop(part, None)
