"""The mesh's etcd client: asyncio, several endpoints, every write guarded against being applied twice or too late."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Final

from serving._proto import etcd_pb2 as pb
from serving.config import EtcdConfig
from serving.errors import Conflict, FailedPrecondition, NotFound, ResourceExhausted, StoreUnavailable
from serving.store import wire
from serving.store.calls import Calls, MaybeApplied
from serving.store.faults import RevisionGone
from serving.store.txn import applied_at, is_self_guarding, keys_to_read, reads_only
from serving.store.types import (
    Compare,
    KeyValue,
    Op,
    OpKind,
    OpResult,
    OutcomeUnknown,
    Snapshot,
    StoreStatus,
    TxnResult,
    WatchEvent,
)
from serving.store.watch import Watch

PAGE_KEYS: Final = 500
_GUARD_ATTEMPTS: Final = 16
_RELIST_ATTEMPTS: Final = 5


class EtcdClient:
    """One client of one store. Belongs to the event loop that first uses it; the constructor does no I/O.

    Calls raise `StoreUnavailable` when no endpoint answers within the bounded retries, `OutcomeUnknown` when a write
    may or may not have been done, `Unauthenticated` and `PermissionDenied` as etcd says, `InvalidArgument` for what
    etcd would refuse.
    """

    def __init__(self, config: EtcdConfig) -> None:
        """Raises `InvalidArgument` when an endpoint is malformed."""
        self._calls = Calls(config)
        self._seen_revision = 0

    @property
    def config(self) -> EtcdConfig:
        return self._calls.config

    @property
    def closed(self) -> bool:
        return self._calls.closed

    # ------------------------------------------------------------------------------------------------------ reading

    async def get(self, key: str) -> KeyValue | None:
        """The key as a majority has it now; None when it is absent."""
        request = pb.RangeRequest(key=wire.key_bytes(key))
        response = await self._calls.call(wire.RANGE, request, what=f"get {key}", repeat=True)
        self._note(response.header)
        return wire.key_value(response.kvs[0]) if response.kvs else None

    async def get_prefix(self, prefix: str) -> Snapshot:
        """Every key of the prefix at one revision, however many pages it takes."""
        return (await self._listed(prefix))[0]

    async def get_written(self, prefix: str, *, after: int) -> tuple[Snapshot, int]:
        """The keys of the prefix that were written after that revision; beside them how many there are in all.

        Keys that are gone are not among them: their number tells.
        """
        return await self._listed(prefix, min_mod_revision=after + 1)

    async def get_versions(self, prefix: str) -> Snapshot:
        """As `get_prefix`, without the values."""
        return (await self._listed(prefix, keys_only=True))[0]

    async def get_newest(self, prefix: str, *, until: int, as_of: int) -> KeyValue | None:
        """Of the keys whose last write, as of revision `as_of`, was at `until` or before: the newest.

        None: there is none. Raises `RevisionGone` where revision `as_of` is compacted.
        """
        start, end = wire.range_of_prefix(prefix)
        request = pb.RangeRequest(
            key=start,
            range_end=end,
            limit=1,
            revision=as_of,
            max_mod_revision=until,
            sort_order=pb.RangeRequest.DESCEND,
            sort_target=pb.RangeRequest.MOD,
        )
        page = await self._calls.call(wire.RANGE, request, what=f"newest of {prefix}", repeat=True)
        self._note(page.header)
        return wire.key_value(page.kvs[0]) if page.kvs else None

    async def _listed(self, prefix: str, *, min_mod_revision: int = 0, keys_only: bool = False) -> tuple[Snapshot, int]:
        wanted = pb.RangeRequest(min_mod_revision=min_mod_revision, keys_only=keys_only)
        for attempt in range(_RELIST_ATTEMPTS):
            try:
                return await self._pages(prefix, wanted)
            except RevisionGone as error:  # compacted between two pages
                if attempt == _RELIST_ATTEMPTS - 1:
                    raise StoreUnavailable(f"list {prefix}: compacted while it was read: {error.message}") from error
        raise FailedPrecondition("unreachable")

    async def _pages(self, prefix: str, wanted: pb.RangeRequest) -> tuple[Snapshot, int]:
        """The keys that are wanted, and how many the prefix has."""
        start, end = wire.range_of_prefix(prefix)
        kvs: list[KeyValue] = []
        revision, cluster_id, count, limit = 0, 0, 0, PAGE_KEYS
        while True:
            request = pb.RangeRequest(key=start, range_end=end, limit=limit, revision=revision)
            request.MergeFrom(wanted)
            try:
                page = await self._calls.call(wire.RANGE, request, what=f"list {prefix}", repeat=True)
            except ResourceExhausted:
                if limit == 1:
                    raise
                limit = max(1, limit // 4)  # the answer was too big for one message
                continue
            self._note(page.header)
            if not revision:
                revision, cluster_id, count = page.header.revision, page.header.cluster_id, page.count
            kvs.extend(wire.key_value(kv) for kv in page.kvs)
            if not page.more or not page.kvs:
                return Snapshot(tuple(kvs), revision, cluster_id), count
            start = page.kvs[-1].key + b"\0"

    def watch(self, prefix: str) -> AsyncGenerator[WatchEvent, None]:
        """Follows every key of a prefix for as long as it is iterated: the first picture is a `Resync`.

        Goes on through lost members, lost quorums, compaction, new tokens and replaced stores; says `Disconnected`
        (also before the first `Resync`) when the view is stale. Ends only by `PermissionDenied` (configuration)
        and when the client is closed.
        """
        return Watch(self._calls, self.get_prefix, prefix).events()

    # ------------------------------------------------------------------------------------------------------ writing

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Writes the key whoever wrote it before; returns the revision. Raises `NotFound` when the lease is gone.

        It is a transaction guarded by the newest revision known, not a plain put: after a time-out the first attempt
        may still be on its way, and must not overwrite what is written later.
        """
        for _ in range(_GUARD_ATTEMPTS):
            guard = Compare.mod_before(key, self._seen_revision + 1)
            try:
                result = await self.txn([guard], [Op.put(key, value, lease)], [Op.get(key)])
            except OutcomeUnknown as error:
                if not error.store_answers:
                    raise
                continue  # somebody else wrote in between: the last writer wins, and that is this call
            if result.succeeded:
                return result.revision
        raise Conflict(f"{key} is written by others faster than it could be written {_GUARD_ATTEMPTS} times")

    async def put_if(self, key: str, value: bytes, *, mod_revision: int, lease: int = 0) -> int:
        """Writes the key if it was last written at `mod_revision` (0: if it is absent); returns the new revision.

        Raises `Conflict` when it is not so.
        """
        condition = Compare.mod_revision(key, mod_revision)
        result = await self.txn([condition], [Op.put(key, value, lease)], [Op.get(key)])
        if not result.succeeded:
            raise Conflict(_conflict(key, mod_revision, result.results[0].kv))
        return result.revision

    async def delete(self, key: str) -> bool:
        """Removes the key whoever wrote it. True when it existed; after a lost answer, when it may have."""
        for _ in range(_GUARD_ATTEMPTS):
            kv = await self.get(key)
            if kv is None:
                return False
            try:
                await self.delete_if(key, mod_revision=kv.mod_revision)
            except Conflict:
                continue
            return True
        raise Conflict(f"{key} is written by others faster than it could be removed {_GUARD_ATTEMPTS} times")

    async def delete_prefix(self, prefix: str) -> int:
        """Removes every key of the prefix at once; returns how many there were."""
        for _ in range(_GUARD_ATTEMPTS):
            seen = await self._count(prefix)
            if not seen:
                return 0
            guard = Compare.prefix_mod_before(prefix, self._seen_revision + 1)
            try:
                result = await self.txn([guard], [Op.delete_prefix(prefix)])
            except OutcomeUnknown:  # sent again it would remove only what was there before, as the guard says
                if not await self._count(prefix):
                    return seen
                continue
            if result.succeeded:
                return result.results[0].deleted
        raise Conflict(f"{prefix} is written by others faster than it could be removed {_GUARD_ATTEMPTS} times")

    async def _count(self, prefix: str) -> int:
        start, end = wire.range_of_prefix(prefix)
        request = pb.RangeRequest(key=start, range_end=end, count_only=True)
        response = await self._calls.call(wire.RANGE, request, what=f"count {prefix}", repeat=True)
        self._note(response.header)
        return int(response.count)

    async def delete_if(self, key: str, *, mod_revision: int) -> None:
        """Removes the key if it was last written at `mod_revision`. Raises `Conflict` when it is not so."""
        result = await self.txn([Compare.mod_revision(key, mod_revision)], [Op.delete(key)], [Op.get(key)])
        if not result.succeeded:
            raise Conflict(_conflict(key, mod_revision, result.results[0].kv))

    async def txn(self, compares: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op] = ()) -> TxnResult:
        """Applies `then` at one revision if all conditions hold, else `otherwise`.

        After a failure that leaves the outcome open it is repeated only if it guards itself (see `serving.store.txn`);
        what cannot be found out is raised as `OutcomeUnknown`.
        """
        request = pb.TxnRequest(
            compare=[wire.compare_message(compare) for compare in compares],
            success=[wire.op_message(op) for op in then],
            failure=[wire.op_message(op) for op in otherwise],
        )
        what = f"txn of {', '.join(dict.fromkeys(op.key for op in (*then, *otherwise)))}"
        wire.check_size(request, what)
        before = self._seen_revision
        unclear: MaybeApplied | None = None
        for _ in range(max(1, self.config.max_attempts)):
            try:
                result = await self._send(request, what, repeat=reads_only(then, otherwise))
            except MaybeApplied as error:
                unclear = error
                if is_self_guarding(compares, then, otherwise):
                    continue
                break
            except StoreUnavailable as error:
                if unclear is None:
                    raise
                raise _unknown(what, error, store_answers=False) from error
            if result.succeeded or unclear is None:
                return result
            break
        return await self._find_out(then, before, what, unclear)

    async def _send(self, request: pb.TxnRequest, what: str, *, repeat: bool) -> TxnResult:
        response = await self._calls.call(wire.TXN, request, what=what, repeat=repeat)
        self._note(response.header)
        results = tuple(wire.op_result(item) for item in response.responses)
        return TxnResult(response.succeeded, response.header.revision, results)

    async def _find_out(self, then: Sequence[Op], before: int, what: str, cause: MaybeApplied | None) -> TxnResult:
        """Reads the written keys back, and takes the transaction as applied when they show it."""
        keys = keys_to_read(then)
        if keys and all(op.kind in (OpKind.PUT, OpKind.DELETE) for op in then):
            request = pb.TxnRequest(success=[wire.op_message(Op.get(key)) for key in keys])
            try:
                read = await self._send(request, what, repeat=True)
            except StoreUnavailable as error:
                raise _unknown(what, error, store_answers=False) from error
            found = {result.kv.key: result.kv for result in read.results if result.kv is not None}
            revision = applied_at(then, found, after_revision=before)
            if revision is not None:
                return TxnResult(True, revision, tuple(OpResult(deleted=_deleted(op)) for op in then))
        raise _unknown(what, cause, store_answers=True) from cause

    # --------------------------------------------------------------------------------------------- leases and upkeep

    async def revoke(self, lease: int) -> None:
        """Ends a lease, and with it the keys that it carries. A lease that is gone already is no error."""
        request = pb.LeaseRevokeRequest(ID=lease)
        try:
            await self._calls.call(wire.LEASE_REVOKE, request, what=f"revoke lease {lease:x}", repeat=True)
        except NotFound:
            return

    async def status(self) -> StoreStatus:
        """What the member that answers says of itself and the store."""
        response = await self._calls.call(wire.STATUS, pb.StatusRequest(), what="status", repeat=True)
        header = response.header
        return StoreStatus(
            version=response.version,
            cluster_id=header.cluster_id,
            member_id=header.member_id,
            leader_id=response.leader,
            revision=header.revision,
            size_bytes=response.dbSize,
        )

    async def compact(self, revision: int) -> None:
        """Forgets the history before `revision`. A revision that is forgotten already is no error."""
        try:
            await self._calls.call(
                wire.COMPACT, pb.CompactionRequest(revision=revision), what=f"compact {revision}", repeat=True
            )
        except RevisionGone:
            return

    async def close(self) -> None:
        """Ends the connections. May be repeated; calls that still run are cancelled."""
        await self._calls.close()

    def _note(self, header: pb.ResponseHeader) -> None:
        self._seen_revision = max(self._seen_revision, header.revision)


def _deleted(op: Op) -> int:
    return 1 if op.kind is OpKind.DELETE else 0


def _unknown(what: str, cause: StoreUnavailable | None, *, store_answers: bool) -> OutcomeUnknown:
    why = f": {cause.message}" if cause else ""
    return OutcomeUnknown(f"{what}: may or may not have been applied{why}", store_answers=store_answers)


def _conflict(key: str, expected: int, found: KeyValue | None) -> str:
    wanted = f"last written at revision {expected}" if expected else "absent"
    state = f"was last written at revision {found.mod_revision}" if found else "is absent"
    return f"{key} {state}, not {wanted}: read it again and decide again"
