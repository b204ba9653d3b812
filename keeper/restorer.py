"""Writes back what the store lost. Runs on every keeper, because the one that leads may have just been started."""

from __future__ import annotations

import logging

from keeper.commit import commit
from keeper.events import Events
from keeper.mirror import Mirror
from keeper.picture import Touched
from keeper.restore import restore
from serving.control import Clock, Controller, Done, LookAgain, Outcome, Retry
from serving.errors import StoreUnavailable
from serving.store import EtcdClient
from serving.store.keys import AppKey

_log = logging.getLogger("keeper.restorer")


class Restorer:
    """Goes over `mirror.remembered` until all of it is in the store again."""

    def __init__(self, client: EtcdClient, mirror: Mirror, clock: Clock, events: Events, keeper_id: str) -> None:
        self._client = client
        self._mirror = mirror
        self._clock = clock
        self._events = events
        self._why = f"restored from the memory of keeper {keeper_id}, because the store had lost it"
        self._controller: Controller[AppKey] = Controller("restore", self._reconcile, workers=1, clock=clock)

    async def run(self) -> None:
        """Until cancelled."""
        unlisten = self._mirror.listen(self._on_change)
        try:
            await self._controller.run()
        finally:
            unlisten()

    def _on_change(self, _touched: Touched) -> None:
        for key in self._mirror.remembered:
            self._controller.wake(key)

    async def _reconcile(self, key: AppKey) -> Outcome:
        known = self._mirror.remembered.get(key)
        if known is None:
            return Done()
        if self._mirror.stale_for_s > 0:
            return Retry("the store does not answer")
        change = restore(known, self._mirror.picture.app(key), self._clock.now(), self._why)
        if change is None:
            self._mirror.restored(key)
            return Done()
        try:
            revision = await commit(self._client, change)
        except StoreUnavailable as error:
            return Retry(f"the store does not answer: {error.message}")
        if revision is None:
            return Retry("somebody else wrote in between")
        for note in change.notes:
            self._events.add(note)
        self._mirror.committed(change, revision)
        return LookAgain(0.0)
