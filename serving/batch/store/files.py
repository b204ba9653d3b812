"""Records of files in etcd, and the content that they name: created last, removed first."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from serving._proto import batch_pb2 as pb
from serving.batch.orders.batch import ends_at, read_batches, seconds
from serving.batch.orders.book import nothing_new
from serving.batch.store.content import Content, ContentStore
from serving.batch.store.reading import read_apart
from serving.errors import AlreadyExists, Conflict, DataLoss, NotFound, ResourceExhausted
from serving.observe import get_logger
from serving.stamps import stamp
from serving.store import keys
from serving.store.client import EtcdClient
from serving.store.records import decode, encode
from serving.store.types import Compare, KeyValue, Op, Snapshot

INPUT: Final = "batch"  # purposes
OUTPUT: Final = "batch_output"
_ATTEMPTS: Final = 32
_OF_CLIENT: Final = ("filename", "purpose", "bytes", "digest")
_LOG: Final = get_logger(__name__)
_STDLIB_LOG: Final = logging.getLogger(__name__)


class FileInUse(Conflict):
    """A batch that has not ended reads it."""


@dataclass(frozen=True, slots=True)
class FileLimits:
    """Of one namespace; of files that have not expired."""

    files: int
    bytes: int


def new_file_id() -> str:
    return f"file-{secrets.token_hex(16)}"


def file_record(
    namespace: str, file_id: str, content: Content, *, filename: str, purpose: str, now: float, expires_after_s: int
) -> pb.FileRecord:
    """`now` in unix seconds; it is kept until it is deleted where `expires_after_s` is 0."""
    record = pb.FileRecord(
        id=file_id,
        namespace=namespace,
        filename=filename,
        purpose=purpose,
        bytes=content.bytes,
        digest=content.digest,
        uri=content.uri,
        created_at=stamp(now),
    )
    if expires_after_s:
        record.expires_at.CopyFrom(stamp(now + expires_after_s))
    return record


def has_expired(record: pb.FileRecord, now: float) -> bool:
    return record.HasField("expires_at") and seconds(record.expires_at) <= now


def read_files(found: Iterable[KeyValue]) -> dict[str, pb.FileRecord]:
    """By key. Damaged ones are left out, and logged."""
    made: dict[str, pb.FileRecord] = {}
    for kv in found:
        try:
            record = decode(pb.FileRecord, kv.value)
            if kv.key != keys.file(record.namespace, record.id):
                raise DataLoss(f"it says that it is {record.namespace[:80]!r}, {record.id[:80]!r}")
        except DataLoss as error:
            _STDLIB_LOG.warning("file ignored", extra={"store_key": kv.key, "error": error.message})
            continue
        made[kv.key] = record
    return made


class FileBook:
    """Belongs to one event loop; `store` is its owner's to close. Times are unix seconds."""

    def __init__(self, store: EtcdClient, content: ContentStore, limits: FileLimits) -> None:
        self._store = store
        self._content = content
        self._limits = limits

    async def create(self, record: pb.FileRecord, now: float) -> tuple[pb.FileRecord, bool]:
        """Writes the record of content that is there, once; True where it was there already.

        One that has expired, and was not swept yet, begins anew, with the content that it has: a batch may read it.
        Raises `ResourceExhausted` at a limit, `AlreadyExists` for its id with another file. After any error but an
        `OutcomeUnknown` nothing names the content.
        """
        prefix, key = keys.files(record.namespace), keys.file(record.namespace, record.id)
        for _ in range(_ATTEMPTS):
            found = await self._store.get_prefix(prefix)
            records = await read_apart(read_files, found.kvs)
            there = records.get(key)
            if there is not None and not has_expired(there, now):
                return _same(there, record), True
            self._check(records.values(), record.bytes, now)
            new = record if there is None else _renewed(there, record)
            as_read = Compare.mod_revision(key, _revision_of(key, found) if there is not None else 0)
            conditions = [as_read, Compare.prefix_mod_before(prefix, found.revision + 1)]
            if (await self._store.txn(conditions, [Op.put(key, encode(new))])).succeeded:
                _LOG.info("file kept", file=record.id, namespace=record.namespace, bytes=record.bytes)
                return new, there is not None
        raise Conflict("too many files are created at the same time; send it again")

    async def check_room(self, namespace: str, file_id: str, now: float) -> None:
        """Whether a file of this id could be created, or is there already. Raises `ResourceExhausted`."""
        found = await self._store.get_prefix(keys.files(namespace))
        records = await read_apart(read_files, found.kvs)
        there = records.get(keys.file(namespace, file_id))
        if there is None or has_expired(there, now):
            self._check(records.values(), 0, now)

    def _check(self, records: Iterable[pb.FileRecord], more_bytes: int, now: float) -> None:
        sizes = [one.bytes for one in records if not has_expired(one, now)]
        if len(sizes) >= self._limits.files:
            raise ResourceExhausted(f"{len(sizes)} files are kept, as many as there may be: delete one")
        if sum(sizes) + more_bytes > self._limits.bytes:
            raise ResourceExhausted(
                f"{sum(sizes)} bytes are kept, {more_bytes} more would be more than {self._limits.bytes}: delete a file"
            )

    async def get(self, namespace: str, file_id: str, now: float) -> pb.FileRecord:
        """Raises `NotFound`, also for one that has expired."""
        return (await self._get(namespace, file_id, now))[0]

    async def _get(self, namespace: str, file_id: str, now: float) -> tuple[pb.FileRecord, int]:
        """And the revision at which it was written."""
        kv = await self._store.get(keys.file(namespace, file_id))
        record = read_files([kv]).get(kv.key) if kv is not None else None
        if kv is None or record is None or has_expired(record, now):
            raise NotFound(f"there is no file {file_id}")
        return record, kv.mod_revision

    async def of_namespace(self, namespace: str, now: float) -> list[pb.FileRecord]:
        """Those that have not expired, the newest first."""
        found = await self._store.get_prefix(keys.files(namespace))
        read = await read_apart(read_files, found.kvs)
        live = [one for one in read.values() if not has_expired(one, now)]
        return sorted(live, key=lambda one: (one.created_at.ToNanoseconds(), one.id), reverse=True)

    async def delete(self, namespace: str, file_id: str, now: float) -> None:
        """The record, then the content. Raises `NotFound`, `FileInUse`, `Conflict`."""
        for _ in range(_ATTEMPTS):
            record, revision = await self._get(namespace, file_id, now)
            orders = await self._store.get_prefix(keys.batches(namespace))
            for batch in (await read_apart(read_batches, orders.kvs)).values():
                if batch.order.input_file == file_id and ends_at(batch, now) is None:
                    raise FileInUse(f"{file_id} is read by {batch.id}, which has not ended: cancel it first")
            if await remove_unread(self._store, self._content, record, revision, orders.revision):
                _LOG.info("file deleted", file=file_id, namespace=namespace)
                return
        raise Conflict("too many batches are created or claimed at the same time; delete it again")


async def remove_unread(
    store: EtcdClient, content: ContentStore, record: pb.FileRecord, revision: int, orders_revision: int
) -> bool:
    """The record, then the content, of a file that no batch reads, where it was not written since.

    False: not removed, as it was, or as something may have been ordered since `orders_revision`, as of which the
    batches were read. An order compares that its input is there: so one of the two happens, never both.
    """
    key = keys.file(record.namespace, record.id)
    conditions = [Compare.mod_revision(key, revision), nothing_new(record.namespace, orders_revision)]
    if not (await store.txn(conditions, [Op.delete(key)])).succeeded:
        return False
    await asyncio.to_thread(remove_content, content, record)
    return True


def remove_content(content: ContentStore, record: pb.FileRecord) -> None:
    """After its record. What lies in another store than this one stays there. Raises `Unavailable`."""
    try:
        content.remove(record.uri)
    except DataLoss as error:
        _LOG.warning("content stays where it is", file=record.id, namespace=record.namespace, reason=error.message)


def _same(there: pb.FileRecord, record: pb.FileRecord) -> pb.FileRecord:
    for name in _OF_CLIENT:
        if getattr(there, name) != getattr(record, name):
            raise AlreadyExists(f"this idempotency key was used for a file with another `{name}`: use a new key")
    return there


def _renewed(expired: pb.FileRecord, record: pb.FileRecord) -> pb.FileRecord:
    made = pb.FileRecord()
    made.CopyFrom(record)
    made.uri = _same(expired, record).uri
    return made


def _revision_of(key: str, found: Snapshot) -> int:
    return next(kv.mod_revision for kv in found.kvs if kv.key == key)
