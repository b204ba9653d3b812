"""Writes the application's status: when it changed and now and then, by compare-and-set, never over a newer one."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from serving._proto import records_pb2 as pb
from serving.control import Clock
from serving.errors import Conflict, DataLoss, MeshError, StoreUnavailable
from serving.master.status import same_but_for_time
from serving.store.client import EtcdClient
from serving.store.records import decode, encode
from serving.timeouts import wait_for

_LOG: Final = logging.getLogger(__name__)
_RETRY_S: Final = 0.5


class StatusWriter:
    """`submit` replaces what is to be written; `run` writes. A status of a higher generation is never overwritten."""

    def __init__(self, client: EtcdClient, key: str, generation: int, clock: Clock, *, heartbeat_s: float) -> None:
        self._client = client
        self._key = key
        self._generation = generation
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._wanted: pb.ApplicationStatus | None = None
        self._mod_revision: int | None = None  # None: not known, read first
        self._changed = asyncio.Event()
        self._fenced_by = 0
        self._ended = False

    async def load(self) -> pb.ApplicationStatus | None:
        """The stored status, for the times of its conditions. None when there is none, or etcd is away."""
        try:
            found = await self._read()
        except StoreUnavailable:
            return None
        return found

    def submit(self, status: pb.ApplicationStatus) -> None:
        if self._wanted is None or not same_but_for_time(self._wanted, status):
            self._changed.set()
        self._wanted = status

    def write_again(self) -> None:
        """The store was replaced: what is stored is not what was written."""
        self._mod_revision = None
        self._changed.set()

    async def run(self) -> None:
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
                    _LOG.error("status cannot be written", extra={"key": self._key, "error": error.message})
                self._mod_revision = None
                await self._clock.sleep(_RETRY_S)
                self._changed.set()

    async def _write(self) -> None:
        status = self._wanted
        if status is None or self._ended:
            return
        if self._mod_revision is None:
            stored = await self._read()
            if stored is not None and stored.generation > self._generation:
                self._say_fenced(stored.generation)
                return
        self._mod_revision = await self._client.put_if(self._key, encode(status), mod_revision=self._mod_revision or 0)

    async def delete(self) -> None:
        """Removes the status for good, unless a newer generation's is there. Raises `StoreUnavailable`."""
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

    async def _read(self) -> pb.ApplicationStatus | None:
        kv = await self._client.get(self._key)
        self._mod_revision = kv.mod_revision if kv is not None else 0
        if kv is None:
            return None
        try:
            return decode(pb.ApplicationStatus, kv.value)
        except DataLoss as error:
            _LOG.error("stored status is damaged and is replaced", extra={"key": self._key, "error": error.message})
            return pb.ApplicationStatus()

    def _say_fenced(self, generation: int) -> None:
        if generation != self._fenced_by:
            self._fenced_by = generation
            _LOG.warning("status belongs to a newer generation", extra={"key": self._key, "newer": generation})
