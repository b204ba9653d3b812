"""A prefix of the store, followed and kept: the view that controllers and clients read while etcd is away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from serving.errors import FailedPrecondition, MeshError, StoreUnavailable
from serving.store.cache_state import CacheState, Prefer, prefer_found
from serving.store.client import EtcdClient
from serving.store.types import Changes, Disconnected, KeyValue, Resync
from serving.timeouts import wait_for

CARRY_GRACE_S: Final = 60.0
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CacheUpdate:
    """What is news: `keys` whose entry changed (may be empty: then only `stale` did).

    `replaced` says that the store was replaced since the last update: owners of keys write them back.
    """

    keys: frozenset[str]
    stale: bool
    replaced: bool


Listener = Callable[[CacheUpdate], None]


class PrefixCache:
    """Follows a prefix from `start` to `close` and answers from memory. Belongs to one event loop.

    Three things that readers must tell apart:

    - `synced` is False: nothing is known yet; an absent key means nothing.
    - `stale`: etcd does not answer; entries are the last ones known.
    - `is_carried(key)`: the store was replaced (empty, older, another one) and does not hold this entry. It is kept
      until its owner writes it again, until `drop` (somebody knows that it is dead), or for `grace_s` of a live
      connection. So a replaced store is never read as "delete everything".
    """

    def __init__(
        self,
        client: EtcdClient,
        prefix: str,
        *,
        grace_s: float = CARRY_GRACE_S,
        prefer: Prefer = prefer_found,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`prefer(remembered, found)` picks what to show of a key that a replaced store holds with another value."""
        self.prefix = prefix
        self._client = client
        self._monotonic = monotonic
        self._state = CacheState(grace_s=grace_s, prefer=prefer)
        self._stale_since_s: float | None = monotonic()
        self._error: MeshError | None = None
        self._listeners: list[Listener] = []
        self._moved = asyncio.Event()  # a new time of expiry, or the first picture
        self._tasks: list[asyncio.Task[None]] = []
        self._failed: MeshError | None = None
        self._closed = False
        self._waiting: set[_Pending] = set()  # one of each subscription
        self._synced = asyncio.Event()  # or there never will be a picture

    # ---------------------------------------------------------------------------------------------------------- life

    async def start(self, *, wait_s: float | None = None) -> None:
        """Begins to follow. With `wait_s` returns when the first picture is there; raises as `wait_synced` does."""
        if self._tasks:
            raise FailedPrecondition(f"the cache of {self.prefix} was started already")
        if self._closed:
            raise FailedPrecondition(f"the cache of {self.prefix} was closed")
        self._tasks = [
            asyncio.create_task(self._follow(), name=f"cache {self.prefix}"),
            asyncio.create_task(self._expire(), name=f"cache expiry {self.prefix}"),
        ]
        if wait_s is not None:
            await self.wait_synced(wait_s)

    async def wait_synced(self, timeout_s: float | None) -> None:
        """Raises `StoreUnavailable` when there is no picture by then (following goes on), else why it never will be.

        None waits however long etcd is away.
        """
        try:
            await wait_for(self._synced.wait(), timeout_s)
        except asyncio.TimeoutError:
            why = f": {self._error.message}" if self._error else ""
            raise StoreUnavailable(f"{self.prefix} could not be read within {timeout_s:g} s{why}") from self._error
        if self._failed is not None:
            raise self._failed
        if not self.synced:
            raise FailedPrecondition(f"the cache of {self.prefix} was closed before it had read anything")

    async def close(self) -> None:
        """Ends following and every subscription; entries stay readable. May be repeated."""
        if not self._closed:
            self._closed = True
            self._synced.set()
            for waiting in self._waiting:
                waiting.end()
            for task in self._tasks:
                task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # ------------------------------------------------------------------------------------------------------- reading

    @property
    def synced(self) -> bool:
        return self._state.synced

    @property
    def stale(self) -> bool:
        return self._stale_since_s is not None

    @property
    def stale_for_s(self) -> float:
        """0 while it is fresh."""
        return 0.0 if self._stale_since_s is None else max(0.0, self._monotonic() - self._stale_since_s)

    @property
    def error(self) -> MeshError | None:
        """Why it is stale."""
        return self._error

    @property
    def revision(self) -> int:
        return self._state.revision

    def get(self, key: str) -> KeyValue | None:
        return self._state.get(key)

    def entries(self) -> dict[str, KeyValue]:
        """A copy of everything known, carried entries included, in the order of the keys."""
        return self._state.entries()

    def is_carried(self, key: str) -> bool:
        return self._state.is_carried(key)

    def carried(self) -> frozenset[str]:
        return self._state.carried()

    def drop(self, key: str) -> bool:
        """Ends a carried entry that is known to be dead. False when the key is not carried: the store's word counts."""
        changed = self._state.drop(key)
        if changed:
            self._tell(frozenset({key}))
        return changed

    # ----------------------------------------------------------------------------------------------------- following

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Calls `listener` at once after every change, on the loop; the answer ends that. It must be quick."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def touch(self) -> None:
        """Tells everybody who listens or subscribed to look again: what they show depends on something else, too."""
        self._tell(frozenset())

    async def subscribe(self) -> AsyncGenerator[CacheUpdate, None]:
        """First everything that is known, then what changed since the last look, merged, until the cache is closed.

        Raises what else ended it.
        """
        waiting = _Pending(CacheUpdate(frozenset(self._state.entries()), self.stale, False))
        end = self.listen(waiting.add)
        self._waiting.add(waiting)
        if self._closed:
            waiting.end()
        try:
            while (update := await waiting.take()) is not None:
                yield update
                if self._failed is not None:
                    raise self._failed
        finally:
            self._waiting.discard(waiting)
            end()

    def _tell(self, keys: frozenset[str], *, replaced: bool = False) -> None:
        update = CacheUpdate(keys, self.stale, replaced)
        for listener in tuple(self._listeners):
            try:
                listener(update)
            except Exception:  # noqa: BLE001 - one reader's fault must not end the view of the others
                _LOG.exception("a listener of the cache failed", extra={"prefix": self.prefix})

    async def _follow(self) -> None:
        try:
            async with aclosing(self._client.watch(self.prefix)) as events:
                async for event in events:
                    self._take(event)
        except MeshError as error:
            _LOG.error("cache ended", extra={"prefix": self.prefix, "error": error.message})
            self._failed = self._error = error
            self._stale_since_s = self._stale_since_s or self._monotonic()
            self._synced.set()
            self._tell(frozenset())

    def _take(self, event: Resync | Changes | Disconnected) -> None:
        now_s = self._monotonic()
        was_stale = self.stale
        if isinstance(event, Disconnected):
            self._state.pause(now_s)
            self._error = event.error
            self._stale_since_s = min(now_s, event.since_monotonic_s) if not was_stale else self._stale_since_s
            if not was_stale:
                _LOG.warning("cache is stale", extra={"prefix": self.prefix, "error": event.error.message})
                self._tell(frozenset())
            return
        self._stale_since_s, self._error = None, None
        replaced = isinstance(event, Resync) and event.store_replaced
        if isinstance(event, Resync):
            keys = self._state.resync(event.snapshot, replaced=replaced, now_s=now_s)
        else:
            keys = self._state.changes(event, now_s=now_s)
        if replaced:
            carried = len(self._state.carried())
            _LOG.warning("the store was replaced", extra={"prefix": self.prefix, "carried": carried})
        self._synced.set()
        self._moved.set()
        if keys or was_stale or replaced:
            self._tell(keys, replaced=replaced)

    async def _expire(self) -> None:
        while True:
            self._moved.clear()
            at_s = self._state.next_expiry_s()
            try:
                await wait_for(self._moved.wait(), None if at_s is None else max(0.0, at_s - self._monotonic()))
            except asyncio.TimeoutError:
                keys = self._state.expire(self._monotonic())
                if keys:
                    _LOG.info("carried entries ended", extra={"prefix": self.prefix, "keys": len(keys)})
                    self._tell(keys)


class _Pending:
    """Merges updates until they are taken, or none is to come."""

    def __init__(self, first: CacheUpdate) -> None:
        self._update: CacheUpdate | None = first
        self._event = asyncio.Event()
        self._ended = False

    def end(self) -> None:
        self._ended = True
        self._event.set()

    def add(self, update: CacheUpdate) -> None:
        old = self._update
        if old is not None:
            update = CacheUpdate(old.keys | update.keys, update.stale, old.replaced or update.replaced)
        self._update = update
        self._event.set()

    async def take(self) -> CacheUpdate | None:
        """None when nothing is left and nothing is to come."""
        while self._update is None and not self._ended:
            self._event.clear()
            await self._event.wait()
        update, self._update = self._update, None
        return update
