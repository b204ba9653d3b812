"""A watch that never lets go: resumes by revision, lists again after compaction, knows a store that is not the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Final

from serving._proto import etcd_pb2 as pb
from serving.errors import MeshError, PermissionDenied, StoreUnavailable
from serving.store import wire
from serving.store.calls import Calls, as_unavailable, backoff_s
from serving.store.faults import RevisionGone
from serving.store.history import History
from serving.store.types import Changes, Disconnected, KeyValue, Resync, Snapshot, WatchEvent
from serving.store.watch_stream import open_stream
from serving.timeouts import cancel_and_wait

STALE_AFTER_S: Final = 1.0  # a change of members is quicker, and not worth a word
_DENIED_LIMIT: Final = 2  # a member that lags may not know of a right that was just granted


def changes_of(events: Iterable[pb.Event], *, after_revision: int) -> Changes | None:
    """The last state of each key in a batch of etcd's events; None when nothing is newer than `after_revision`."""
    last: dict[str, KeyValue | None] = {}
    revision = after_revision
    for event in events:
        if event.kv.mod_revision <= after_revision:
            continue
        kv = wire.key_value(event.kv)
        last.pop(kv.key, None)  # so that the order is that of the last change
        last[kv.key] = None if event.type == pb.Event.DELETE else kv
        revision = max(revision, kv.mod_revision)
    if not last:
        return None
    puts = tuple(kv for kv in last.values() if kv is not None)
    return Changes(puts, tuple(key for key, kv in last.items() if kv is None), revision)


class Watch:
    """Follows one prefix. `events` is iterated once."""

    def __init__(self, calls: Calls, list_prefix: Callable[[str], Awaitable[Snapshot]], prefix: str) -> None:
        self._calls = calls
        self._list_prefix = list_prefix
        self._prefix = prefix
        self._history = History()
        self._must_list = True
        self._denied = 0
        self._connected = False
        self._stale = False  # and said so
        self._alive_at = time.monotonic()

    async def events(self) -> AsyncGenerator[WatchEvent, None]:
        """See `EtcdClient.watch`."""
        wire.range_of_prefix(self._prefix)  # InvalidArgument before anything is sent
        failures = 0
        while True:
            try:
                async with aclosing(self._session()) as session, aclosing(self._timed(session)) as timed:
                    async for event in timed:
                        failures = 0
                        yield event
            except RevisionGone:
                self._must_list = True
            except PermissionDenied:
                raise
            except MeshError as error:
                if self._calls.closed:
                    raise
                if failures and not self._stale:
                    yield self._disconnected(as_unavailable(error))
            self._connected = False
            failures += 1
            await asyncio.sleep(backoff_s(failures - 1))

    async def _timed(self, session: AsyncGenerator[WatchEvent, None]) -> AsyncGenerator[WatchEvent, None]:
        """Passes a session's events on, and says `Disconnected` when it takes long to come about."""
        while True:
            pending = asyncio.ensure_future(anext(session))
            try:
                if not self._connected and not self._stale:
                    await asyncio.wait({pending}, timeout=STALE_AFTER_S)
                    if not pending.done() and not self._connected:
                        yield self._disconnected(StoreUnavailable(f"watch {self._prefix}: etcd does not answer"))
                event = await pending
            finally:
                if not pending.done():
                    await cancel_and_wait(pending)
            yield event

    def _disconnected(self, error: StoreUnavailable) -> Disconnected:
        self._stale = True
        return Disconnected(error, self._alive_at)

    async def _session(self) -> AsyncGenerator[WatchEvent, None]:
        """The events of one connection, from the moment where the last one ended. Raises when it breaks."""
        if self._must_list or not await self._has_our_past():
            snapshot = await self._list_prefix(self._prefix)
            replaced = self._history.adopt(snapshot)
            self._must_list, self._stale = False, False
            self._alive_at = time.monotonic()
            yield Resync(snapshot, replaced)
        try:
            async with open_stream(self._calls, self._prefix, self._history) as stream:
                self._connected, self._denied = True, 0
                self._alive_at = time.monotonic()
                if self._stale:
                    self._stale = False
                    yield Changes((), (), self._history.revision)
                while True:
                    events, revision = await stream.batch()
                    self._alive_at = time.monotonic()
                    changes = changes_of(events, after_revision=self._history.revision)
                    self._history.apply(changes.puts if changes else (), changes.deletes if changes else (), revision)
                    if changes is not None:
                        yield changes
        except PermissionDenied as error:
            self._denied += 1
            if self._denied >= _DENIED_LIMIT:
                raise
            raise StoreUnavailable(error.message) from error

    async def _has_our_past(self) -> bool:
        """Asks a majority what the prefix was at the last revision that was seen. Raises `RevisionGone` if unknown."""
        start, end = wire.range_of_prefix(self._prefix)
        request = pb.RangeRequest(
            key=start,
            range_end=end,
            revision=self._history.revision,
            limit=1,
            sort_order=pb.RangeRequest.DESCEND,
            sort_target=pb.RangeRequest.MOD,
        )
        response = await self._calls.call(wire.RANGE, request, what=f"resume {self._prefix}", repeat=True)
        newest = wire.key_value(response.kvs[0]) if response.kvs else None
        return self._history.agrees(cluster_id=response.header.cluster_id, count=response.count, newest=newest)
