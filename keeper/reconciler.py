"""The leading keeper's loop: every application as it should be, level-triggered, one transaction at a time."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from keeper.changes import Change, Note
from keeper.commit import commit
from keeper.config import KeeperConfig
from keeper.constraints import Neighbour
from keeper.events import Events
from keeper.mirror import Mirror
from keeper.own_apps import is_kept_name
from keeper.picture import AppState, Picture, Touched, Versioned
from keeper.plan import plan
from keeper.world import World, neighbours, specs
from serving._proto import records_pb2 as pb
from serving.control import Clock, Controller, Done, GiveUp, LookAgain, Outcome, Retry
from serving.errors import StoreUnavailable
from serving.store import Compare, EtcdClient, Leadership, keys
from serving.store.keys import AppKey

_log = logging.getLogger("keeper.reconciler")
MAX_TOMBSTONES = 500
MAX_OWN_TOMBSTONES = 100  # of applications of single batches, which come and go, and whose names never come again
STALE_RETRY_S = 0.2


class Reconciler:
    """Decides while this keeper leads. One decision at a time: the next one must know of the last one's use of room."""

    def __init__(self, client: EtcdClient, mirror: Mirror, config: KeeperConfig, clock: Clock, events: Events) -> None:
        self._client = client
        self._mirror = mirror
        self._config = config
        self._clock = clock
        self._events = events
        self._fence: tuple[Compare, ...] = ()
        self._known_since: dict[AppKey, float] = {}
        self._cached: tuple[int, tuple[Neighbour, ...], tuple[pb.ApplicationSpec, ...]] = (-1, (), ())
        self._controller: Controller[AppKey] = Controller("keeper", self._reconcile, workers=1, clock=clock)

    async def lead(self, leadership: Leadership) -> None:
        """Reconciles until the leadership is lost or the task is cancelled."""
        self._fence = (leadership.fence,)
        self._known_since.clear()
        unlisten = self._mirror.listen(self._on_change)
        try:
            self._wake_all()
            await while_leading(leadership, self._controller)
        finally:
            unlisten()

    def world(self) -> World:
        """Everything a plan needs, at this moment."""
        if self._cached[0] != self._mirror.version:
            picture = self._mirror.picture
            self._cached = (self._mirror.version, neighbours(picture), specs(picture))
        now_s = self._clock.now()
        return World(
            now_s=now_s,
            clusters=self._mirror.book.states(now_s),
            placed=self._cached[1],
            specs=self._cached[2],
            quotas=self._config.quotas,
            adopt_grace_s=self._config.adopt_grace_s,
            known_since=self._known_since,
        )

    def _on_change(self, touched: Touched) -> None:
        for key in touched.apps:
            self._controller.wake(key)
        if touched.reshaped:
            self._wake_all()
        elif touched.apps or touched.clusters:
            self._wake_unsettled()

    async def _reconcile(self, key: AppKey) -> Outcome:
        waiting = not_yet(self._mirror, self._config, self._clock)
        if waiting is not None:
            return waiting
        self._known_since.setdefault(key, self._clock.now())
        app = self._mirror.picture.app(key)
        if app.empty():
            self._known_since.pop(key, None)
            return Done()
        step = plan(app, self.world())
        if step.blocked:
            self._events.add(Note("blocked", f"{key}: {step.blocked}", warning=True))
            return GiveUp(step.blocked)
        if not step.change:
            return Done() if step.again_after_s is None else LookAgain(step.again_after_s)
        return await self._apply(step.change, step.again_after_s)

    async def _apply(self, change: Change, again_after_s: float | None) -> Outcome:
        version = self._mirror.version
        try:
            revision = await commit(self._client, change, fence=self._fence)
        except StoreUnavailable as error:
            return Retry(f"the store does not answer: {error.message}")
        if revision is None:
            if self._mirror.version != version:
                return LookAgain(0.0)
            return Retry("the store changed since it was read, or the leadership is lost")
        for note in change.notes:
            self._events.add(note)
        self._mirror.committed(change, revision)
        if any(name.startswith(keys.DELETED) for name in change.puts):
            await self._prune_tombstones()
        return Done() if again_after_s is None else LookAgain(again_after_s)

    def _wake_all(self) -> None:
        for key in tuple(self._mirror.picture.apps):
            self._controller.wake(key)

    def _wake_unsettled(self) -> None:
        for key, app in tuple(self._mirror.picture.apps.items()):
            if unsettled(app):
                self._controller.wake(key)

    async def _prune_tombstones(self) -> None:
        for key, tombstone in surplus_tombstones(self._mirror.picture):
            change = Change()
            change.delete(key, tombstone)
            revision = await commit(self._client, change, fence=self._fence)
            if revision is not None:
                self._mirror.committed(change, revision)


def surplus_tombstones(picture: Picture) -> list[tuple[str, Versioned[pb.Placement]]]:
    """The oldest ones beyond what is kept, with their keys. Pure. Those of batches do not push out those of users."""
    users: list[tuple[int, str, Versioned[pb.Placement]]] = []
    own: list[tuple[int, str, Versioned[pb.Placement]]] = []
    for app in picture.apps.values():
        for uid, tombstone in app.tombstones.items():
            if app.spec is None or app.spec.value.uid != uid:
                of = own if is_kept_name(app.key.name) else users
                of.append((tombstone.mod_revision, keys.deleted(app.key, uid), tombstone))
    return [
        (key, tombstone)
        for buried, most in ((users, MAX_TOMBSTONES), (own, MAX_OWN_TOMBSTONES))
        for _, key, tombstone in sorted(buried, key=lambda item: item[:2])[: max(0, len(buried) - most)]
    ]


def not_yet(mirror: Mirror, config: KeeperConfig, clock: Clock) -> Outcome | None:
    """While the view is stale, or what the store lost is being written back, nothing is decided."""
    if not mirror.synced.is_set() or mirror.stale_for_s > 0:
        return LookAgain(STALE_RETRY_S)
    since_s = clock.now() - mirror.replaced_at_s
    if mirror.remembered and since_s < config.store_loss_grace_s:
        return LookAgain(STALE_RETRY_S)
    return None


async def while_leading(leadership: Leadership, controller: Controller[Any]) -> None:
    """Runs the controller until the leadership is lost or the task is cancelled. Raises what the controller raises."""
    loop = asyncio.create_task(controller.run())
    lost = asyncio.create_task(leadership.lost.wait())
    try:
        await asyncio.wait([lost, loop], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (lost, loop):
            task.cancel()
        results = await asyncio.gather(lost, loop, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


def unsettled(app: AppState) -> bool:
    """True when a change elsewhere could give the application a better state."""
    if app.spec is None:
        return app.status is not None or bool(app.placements)
    if app.spec.value.deleting or app.decision is None:
        return True
    decision = app.decision.value
    stale = any(cluster != decision.cluster for cluster in app.placements)
    return not decision.cluster or bool(decision.reasons) or stale or decision.revision != app.spec.value.revision
