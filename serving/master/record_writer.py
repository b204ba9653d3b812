"""Writes a record of the master's: when it changed and now and then, by compare-and-set, never over a newer one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from serving._proto import records_pb2 as pb
from serving.control import Clock
from serving.errors import Conflict, DataLoss, MeshError, StoreUnavailable
from serving.store.client import EtcdClient
from serving.store.records import decode, encode
from serving.timeouts import wait_for

_LOG: Final = logging.getLogger(__name__)
_RETRY_S: Final = 0.5


R = TypeVar("R", pb.ApplicationStatus, pb.TrafficRecord, pb.LoadHistory)


class RecordWriter(Generic[R]):
    """`submit` replaces what is to be written; `run` writes. A record of a higher generation is never overwritten."""

    def __init__(
        self,
        client: EtcdClient,
        key: str,
        generation: int,
        clock: Clock,
        kind: type[R],
        *,
        heartbeat_s: float,
        same: Callable[[R, R], bool] = lambda one, other: one == other,
        refresh: bool = False,
        on_written: Callable[[], None] = lambda: None,
    ) -> None:
        """`same` says which records need not be written one after the other; `on_written` is told of each that was.

        Every `heartbeat_s` it looks whether the record is still there; with `refresh` it writes it then in any case.
        """
        self._client = client
        self._key = key
        self._generation = generation
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._kind: type[R] = kind
        self._same: Callable[[R, R], bool] = same
        self._on_written = on_written
        self._refresh = refresh
        self._forced = False
        self._wanted: R | None = None
        self._mod_revision: int | None = None  # None: not known, or a newer generation's: read first
        self._changed = asyncio.Event()
        self._fenced_by = 0
        self._ended = False
        self.known = False  # it was read or written once
        self.stored: R | None = None  # as it was then

    async def load(self) -> R | None:
        """What is stored. None when there is nothing, or etcd is away."""
        try:
            self.stored = await self._read()
        except StoreUnavailable:
            return None
        self.known = True
        return self.stored

    def submit(self, record: R) -> None:
        if self._wanted is None or not self._same(self._wanted, record):
            self._changed.set()
        self._wanted = record

    def write_again(self) -> None:
        """The store was replaced: what is stored is not what was written."""
        self._mod_revision = None
        self._forced = True
        self._changed.set()

    async def run(self) -> None:
        """Reads what is stored, where nobody has yet, and writes from then on."""
        while not self.known:
            await self.load()
            if not self.known:
                await self._clock.sleep(_RETRY_S)
        self._on_written()
        while True:
            try:
                await wait_for(self._changed.wait(), self._heartbeat_s)
            except asyncio.TimeoutError:
                self._mod_revision = None  # the heartbeat also looks whether it is still there
            self._changed.clear()
            try:
                await self._write()
            except MeshError as error:
                if not isinstance(error, (StoreUnavailable, Conflict)):
                    _LOG.error("record cannot be written", extra={"key": self._key, "error": error.message})
                self._mod_revision = None
                await self._clock.sleep(_RETRY_S)
                self._changed.set()

    async def _write(self) -> None:
        record = self._wanted
        if record is None or self._ended:
            return
        if self._mod_revision is None:
            stored = await self._read()
            if stored is not None and stored.generation > self._generation:
                self._say_fenced(stored.generation)
                return
            if stored is not None and not self._refresh and not self._forced:
                if self._same(stored, record):
                    self._note(record)
                    return
                if stored.generation == self._generation and self.known and stored != self.stored:
                    self._note(stored)  # another master of this generation wrote it: what is wanted follows from it
                    return
            self._forced = False
        self._mod_revision = await self._client.put_if(self._key, encode(record), mod_revision=self._mod_revision or 0)
        self._note(record)

    def _note(self, record: R) -> None:
        news = not self.known or self.stored != record
        self.known, self.stored = True, record
        if news:
            self._on_written()

    async def delete(self) -> None:
        """Removes the record for good, unless a newer generation's is there. Raises `StoreUnavailable`."""
        self._ended = True  # a write under way cannot bring it back: it compares
        while True:
            stored = await self._read()
            if stored is None or stored.generation > self._generation:
                return
            try:
                await self._client.delete_if(self._key, mod_revision=self._mod_revision or 0)
            except Conflict:
                continue
            return

    async def _read(self) -> R | None:
        kv = await self._client.get(self._key)
        self._mod_revision = kv.mod_revision if kv is not None else 0
        if kv is None:
            return None
        try:
            found: R = decode(self._kind, kv.value)
        except DataLoss as error:
            _LOG.error("stored record is damaged and is replaced", extra={"key": self._key, "error": error.message})
            found = self._kind()
        if found.generation > self._generation:
            self._mod_revision = None  # not ours to compare with: each write looks again whose the record is
        return found

    def _say_fenced(self, generation: int) -> None:
        if generation != self._fenced_by:
            self._fenced_by = generation
            _LOG.warning("record belongs to a newer generation", extra={"key": self._key, "newer": generation})
