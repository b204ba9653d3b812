"""What this keeper knows of the store: follows it, remembers it when the store forgets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from contextlib import aclosing

from keeper.changes import Change, Note
from keeper.clusters import ClusterBook
from keeper.config import KeeperConfig
from keeper.events import Events
from keeper.picture import AppState, Picture, Touched
from keeper.placement import Liveness
from keeper.restore import came_back
from keeper.unconfirmed import Unconfirmed
from serving.control import Clock
from serving.errors import StoreUnavailable
from serving.store import Changes, Disconnected, EtcdClient, Resync, WatchEvent, keys
from serving.store.keys import AppKey
from serving.store.records import encode
from serving.timeouts import wait_for

_log = logging.getLogger("keeper.mirror")
Listener = Callable[[Touched], None]
VERIFY_AFTER_S = 2.0
LOOK_EVERY_S = 1.0
STOOD_STILL_S = 2.0  # later than this, not only this process was kept waiting


class Mirror:
    """The decoded store, kept up to date by one watch over everything, so that it is consistent in itself.

    `remembered` holds, per application, what was known before the store came back empty or older, until it has been
    written back.
    """

    def __init__(self, client: EtcdClient, config: KeeperConfig, clock: Clock, events: Events) -> None:
        self._client = client
        self._config = config
        self._clock = clock
        self._events = events
        self._listeners: list[Listener] = []
        self._advanced = asyncio.Event()
        self.picture = Picture()
        self.book = ClusterBook(config.cluster_grace_s)
        self.remembered: dict[AppKey, AppState] = {}
        self.replaced_at_s = 0.0
        self.stale_since_s: float | None = clock.monotonic()
        self.stale_reason = "the store has not been read yet"
        self.version = 0
        self.synced = asyncio.Event()
        self._changed = asyncio.Event()
        self._unconfirmed = Unconfirmed()
        self._wrote = asyncio.Event()
        self._shape: dict[str, tuple[Liveness, dict[str, str]]] = {}

    @property
    def stale_for_s(self) -> float:
        """0.0 while the view is followed; else for how long it has not been."""
        return 0.0 if self.stale_since_s is None else max(0.001, self._clock.monotonic() - self.stale_since_s)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Calls `listener` after every change; the answer ends that. Listeners must be quick and must not raise."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def run(self) -> None:
        """Follows the store until cancelled."""
        async with aclosing(self._client.watch(keys.ROOT)) as events:
            async for event in events:
                self.feed(event)

    async def run_clock(self) -> None:
        """Tells when a cluster came, went, was silent for long enough or changed its labels, until cancelled."""
        while True:
            self._changed.clear()
            now_s = self._clock.now()
            self._forget_unused(now_s)
            shape = {s.name: (s.liveness, dict(s.record.labels)) for s in self.book.states(now_s)}
            if shape != self._shape:
                touched = Touched(clusters={*shape, *self._shape}, reshaped=True)
                self._announce(shape)
                self._shape = shape
                self._tell(touched)
                continue
            at_s = self.book.next_change_s(now_s)
            await self._wait_for_change(LOOK_EVERY_S if at_s is None else min(LOOK_EVERY_S, max(0.01, at_s - now_s)))

    async def _wait_for_change(self, limit_s: float) -> None:
        """Returns when something changed, or after `limit_s`.

        After a wait that took much longer, no cluster counts as gone for a while: the machine may have stood still, and
        with it the agents, whose leases ran out meanwhile and who need a moment to take new ones.
        """
        began_s = self._clock.monotonic()
        with contextlib.suppress(asyncio.TimeoutError):
            await wait_for(self._changed.wait(), limit_s)
        late_s = self._clock.monotonic() - began_s - limit_s
        if late_s > STOOD_STILL_S:
            grace_s = self._config.reconnect_grace_s
            self.book.hold(self._clock.now() + grace_s)
            text = f"this keeper did not run for {late_s:.0f} s: no cluster counts as gone for {grace_s:g} s"
            self._events.add(Note("stood-still", text, warning=True))

    async def run_verifier(self) -> None:
        """Looks into the store itself for own writes that the watch does not show, until cancelled."""
        while True:
            await self._wrote.wait()
            self._wrote.clear()
            while self._unconfirmed:
                await self._clock.sleep(VERIFY_AFTER_S)
                if self._unconfirmed and self.stale_since_s is None:
                    await self._verify()

    async def _verify(self) -> None:
        before = self._unconfirmed
        try:
            snapshot = await self._client.get_prefix(keys.ROOT)
        except StoreUnavailable:
            return
        if before is self._unconfirmed and before.contradicted_by(snapshot):
            _log.warning("the store lacks what was written to it", extra={"revision": snapshot.revision})
            self.feed(Resync(snapshot, store_replaced=True))

    def feed(self, event: WatchEvent) -> None:
        """Takes one event of the watch in."""
        if isinstance(event, Disconnected):
            self._disconnected(event)
            return
        was_stale, self.stale_since_s = self.stale_since_s is not None, None
        touched = self._resync(event) if isinstance(event, Resync) else self._changes(event)
        if was_stale:
            self.book.hold(self._clock.now() + self._config.reconnect_grace_s)
        self.book.touch(self._clock.now())
        self.synced.set()
        self._tell(touched)

    def committed(self, change: Change, revision: int) -> None:
        """This process made `change`: known at once, before the watch says it."""
        touched = Touched()
        self._unconfirmed.wrote(change.puts, revision)
        self._wrote.set()
        for key, record in change.puts.items():
            touched.add(self.picture.put(key, encode(record), revision))
            self._note_cluster(key)
        for key in change.deletes:
            touched.add(self.picture.deleted_here(key, revision))
        for prefix in change.delete_prefixes:
            for key in self._keys_of(prefix):
                touched.add(self.picture.deleted_here(key, revision))
        self._tell(touched)

    async def reach(self, revision: int, timeout_s: float) -> bool:
        """Waits until everything up to `revision` is known; False when that takes longer than `timeout_s`."""
        deadline = self._clock.monotonic() + timeout_s
        while self.picture.revision < revision:
            left = deadline - self._clock.monotonic()
            if left <= 0:
                return False
            try:
                await wait_for(self._advanced.wait(), left)
            except asyncio.TimeoutError:
                return False
        return True

    def restored(self, key: AppKey) -> None:
        """Everything remembered of the application is back in the store."""
        if self.remembered.pop(key, None) is not None and not self.remembered:
            self._events.add(Note("restore-finished", "everything remembered is in the store again", warning=True))

    def _disconnected(self, event: Disconnected) -> None:
        if self.stale_since_s is None:
            self.stale_since_s = event.since_monotonic_s
            _log.warning("the store does not answer", extra={"error": event.error.message})
        self.stale_reason = event.error.message

    def _resync(self, event: Resync) -> Touched:
        old, snapshot = self.picture, event.snapshot
        lost = self._unconfirmed.covered_by(snapshot) and self._unconfirmed.contradicted_by(snapshot)
        self._unconfirmed.reached(snapshot.revision)
        self.picture = Picture(snapshot.kvs, snapshot.revision)
        now_s = self._clock.now()
        for name in {*self.book.names(), *old.clusters} - set(self.picture.clusters):
            self.book.missing(name, now_s)
        for record in self.picture.clusters.values():
            self.book.seen(record.value, now_s)
        for app in self.picture.apps.values():
            for cluster in app.placements:
                self.book.expected(cluster, now_s)
        if event.store_replaced or lost:
            self._store_replaced(old)
        return Touched({*old.apps, *self.picture.apps}, {*old.clusters, *self.picture.clusters})

    def _store_replaced(self, old: Picture) -> None:
        now_s = self._clock.now()
        self.replaced_at_s = now_s
        self._unconfirmed = Unconfirmed()
        self.book.hold(now_s + self._config.store_loss_grace_s)
        for key, known in old.apps.items():
            self.remembered.setdefault(key, known)
        found = len(self.picture.apps)
        kind = "empty" if not found else "older"
        text = (
            f"the store came back {kind} (revision {self.picture.revision} after {old.revision}): it holds {found} "
            f"applications, {len(old.apps)} are remembered and written back; nothing is stopped"
        )
        self._events.add(Note("store-replaced", text, warning=True))
        for key, known in old.apps.items():
            if came_back(known, self.picture.app(key)):
                text = f"{key} had been deleted and is back, because the store is older; delete it again if unwanted"
                self._events.add(Note("came-back", text, warning=True))

    def _changes(self, event: Changes) -> Touched:
        touched = Touched()
        for kv in event.puts:
            touched.add(self.picture.put(kv.key, kv.value, kv.mod_revision))
            self._note_cluster(kv.key)
        for key in event.deletes:
            touched.add(self.picture.delete(key))
            name = keys.parse_cluster(key)
            if name is not None:
                self.book.missing(name, self._clock.now())
        self.picture.reached(event.revision)
        self._unconfirmed.reached(event.revision)
        return touched

    def _note_cluster(self, key: str) -> None:
        name = keys.parse_cluster(key)
        if name is not None and name in self.picture.clusters:
            self.book.seen(self.picture.clusters[name].value, self._clock.now())
        placement = keys.parse_placement(key)
        if placement is not None:
            self.book.expected(placement[0], self._clock.now())

    def _announce(self, shape: dict[str, tuple[Liveness, dict[str, str]]]) -> None:
        for name, (state, _labels) in sorted(shape.items()):
            if name not in self._shape or self._shape[name][0] is not state:
                note = Note("cluster-" + state.value, f"cluster {name} is {state.value}", state is not Liveness.ALIVE)
                self._events.add(note)

    def _forget_unused(self, now_s: float) -> None:
        """A cluster that is gone and to which nothing refers any more is forgotten."""
        used: set[str] = set()
        for app in self.picture.apps.values():
            used.update(app.placements)
            used.update(item.value.cluster for item in (app.decision, app.status) if item)
        for name in self.book.names():
            if name not in used and self.book.liveness(name, now_s) is Liveness.GONE:
                self.book.forget(name)

    def _keys_of(self, prefix: str) -> list[str]:
        parsed = keys.parse_app(prefix)
        if parsed is None or parsed[0] not in self.picture.apps:
            return []
        app = self.picture.apps[parsed[0]]
        numbered = [keys.revision(app.key, number) for number in app.revisions]
        return [keys.spec(app.key), keys.decision(app.key), keys.status(app.key), *numbered]

    def _tell(self, touched: Touched) -> None:
        self.version += 1
        self._changed.set()
        self._advanced.set()
        self._advanced = asyncio.Event()
        for listener in tuple(self._listeners):
            listener(touched)
