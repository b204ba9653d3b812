"""What the store's functions take and return. Pure: no gRPC, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from serving.errors import InvalidArgument, StoreUnavailable


class OutcomeUnknown(StoreUnavailable):
    """A transaction may or may not have been applied, and reading back could not tell. Read again, decide again.

    `store_answers` is False when the store could not even be read.
    """

    def __init__(self, message: str, *, store_answers: bool) -> None:
        super().__init__(message)
        self.store_answers = store_answers


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key as etcd holds it. `version` counts the writes since it was created; `lease` 0 is none."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All keys of a prefix at one revision, in the order of their names."""

    kvs: tuple[KeyValue, ...]
    revision: int
    cluster_id: int


@dataclass(frozen=True, slots=True)
class Resync:
    """The whole picture: forget the keys that are not in it, unless `store_replaced`.

    `store_replaced` is True when this is not the history that was followed so far: another cluster id, an older
    revision, or a different past. Absence then proves nothing.
    """

    snapshot: Snapshot
    store_replaced: bool


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed since the last event: the last state of each key, puts in the order of their revisions."""

    puts: tuple[KeyValue, ...]
    deletes: tuple[str, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The view is stale from here on, until the next `Resync` or `Changes` (which may be empty)."""

    error: StoreUnavailable
    since_monotonic_s: float


WatchEvent = Resync | Changes | Disconnected


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """What one member says of itself. `leader_id` 0: it knows of no leader."""

    version: str
    cluster_id: int
    member_id: int
    leader_id: int
    revision: int
    size_bytes: int


class CompareKind(Enum):
    ABSENT = "absent"
    EXISTS = "exists"
    MOD_REVISION = "mod_revision"
    MOD_BEFORE = "mod_before"
    PREFIX_MOD_BEFORE = "prefix_mod_before"
    PREFIX_CREATED_BEFORE = "prefix_created_before"
    VALUE = "value"


@dataclass(frozen=True, slots=True)
class Compare:
    """A condition of a transaction. Made by the functions below."""

    kind: CompareKind
    key: str
    revision: int = 0
    expected: bytes = b""

    @staticmethod
    def absent(key: str) -> Compare:
        return Compare(CompareKind.ABSENT, key)

    @staticmethod
    def exists(key: str) -> Compare:
        return Compare(CompareKind.EXISTS, key)

    @staticmethod
    def mod_revision(key: str, revision: int) -> Compare:
        """The key was last written at exactly this revision; 0 means it must be absent."""
        return Compare(CompareKind.MOD_REVISION, key, revision=revision)

    @staticmethod
    def mod_before(key: str, revision: int) -> Compare:
        """The key is absent or was last written before this revision."""
        return Compare(CompareKind.MOD_BEFORE, key, revision=revision)

    @staticmethod
    def prefix_mod_before(prefix: str, revision: int) -> Compare:
        """Every key of the prefix was last written before this revision."""
        return Compare(CompareKind.PREFIX_MOD_BEFORE, prefix, revision=revision)

    @staticmethod
    def prefix_created_before(prefix: str, revision: int) -> Compare:
        """No key of the prefix was created at this revision or later; those that are there may have been written."""
        return Compare(CompareKind.PREFIX_CREATED_BEFORE, prefix, revision=revision)

    @staticmethod
    def value(key: str, value: bytes) -> Compare:
        return Compare(CompareKind.VALUE, key, expected=value)


class OpKind(Enum):
    PUT = "put"
    DELETE = "delete"
    DELETE_PREFIX = "delete_prefix"
    GET = "get"
    GET_PREFIX = "get_prefix"


@dataclass(frozen=True, slots=True)
class Op:
    """One step of a transaction. Made by the functions below."""

    kind: OpKind
    key: str
    value: bytes = b""
    lease: int = 0

    @staticmethod
    def put(key: str, value: bytes, lease: int = 0) -> Op:
        return Op(OpKind.PUT, key, value, lease)

    @staticmethod
    def delete(key: str) -> Op:
        return Op(OpKind.DELETE, key)

    @staticmethod
    def delete_prefix(prefix: str) -> Op:
        return Op(OpKind.DELETE_PREFIX, prefix)

    @staticmethod
    def get(key: str) -> Op:
        return Op(OpKind.GET, key)

    @staticmethod
    def get_prefix(prefix: str) -> Op:
        return Op(OpKind.GET_PREFIX, prefix)

    @property
    def writes(self) -> bool:
        return self.kind not in (OpKind.GET, OpKind.GET_PREFIX)


@dataclass(frozen=True, slots=True)
class OpResult:
    """What one step gave: the keys that a get read, or the number of keys that a delete removed."""

    kvs: tuple[KeyValue, ...] = ()
    deleted: int = 0

    @property
    def kv(self) -> KeyValue | None:
        """The one key of an `Op.get`; None when it is absent."""
        return self.kvs[0] if self.kvs else None


@dataclass(frozen=True, slots=True)
class TxnResult:
    """`succeeded`: all conditions held and `then` was applied, else `otherwise` was. One result per step applied."""

    succeeded: bool
    revision: int
    results: tuple[OpResult, ...]


def prefix_end(prefix: bytes) -> bytes:
    """The first key behind all keys that start with `prefix`, as etcd's ranges want it.

    Raises `InvalidArgument` for an empty prefix: that is the whole store, and never what the mesh means.
    """
    stripped = prefix.rstrip(b"\xff")
    if not stripped:
        raise InvalidArgument(f"{prefix!r} is no prefix of the mesh's keys")
    return stripped[:-1] + bytes([stripped[-1] + 1])
