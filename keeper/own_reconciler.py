"""The leading keeper's second loop: batches of mode `own` get applications, ended ones lose them.

Level-triggered: each look compares all such batches with all such applications, so that whoever leads next goes on.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Final

from keeper.changes import Change
from keeper.commit import commit
from keeper.config import KeeperConfig
from keeper.events import Events
from keeper.mirror import Mirror
from keeper.own_apps import Name, Sight, batch_of, census, is_kept_name, removals, wishes
from keeper.own_orders import OwnOrders
from keeper.picture import Touched
from keeper.reconciler import not_yet, while_leading
from keeper.world import World
from serving.control import Clock, Controller, Done, LookAgain, Outcome, Retry
from serving.errors import StoreUnavailable
from serving.store import Compare, EtcdClient, Leadership

_KEY: Final = "own"
_PACE_S: Final = 0.2  # from one look's end to the next one: applications write their statuses all the time
_LOOK_S: Final = 2.0  # windows end and room is made without anybody telling
LOST_ORDER_GRACE_S: Final = 600.0  # to an operator who restores a store: an order that it lacks may come back


class OwnBatchReconciler:
    """`run` follows the orders as long as the keeper lives; `lead` decides while it leads."""

    def __init__(
        self,
        client: EtcdClient,
        mirror: Mirror,
        world: Callable[[], World],
        config: KeeperConfig,
        clock: Clock,
        events: Events,
    ) -> None:
        self._client = client
        self._mirror = mirror
        self._world = world
        self._config = config
        self._clock = clock
        self._events = events
        self._fence: tuple[Compare, ...] = ()
        self._leads = False
        self._leads_since_s = 0.0
        self._looked_s = 0.0
        self._counts: dict[str, int] = {}
        self._controller: Controller[str] = Controller("own-batches", self._reconcile, clock=clock)
        self._orders = OwnOrders(client, self._wake)

    def counts(self) -> Mapping[str, int]:
        """Unfinished batches of mode `own`, by whether they have an application; empty while another keeper leads."""
        return self._counts

    async def run(self) -> None:
        """Until cancelled."""
        await self._orders.run()

    async def lead(self, leadership: Leadership) -> None:
        """Reconciles until the leadership is lost or the task is cancelled."""
        self._fence = (leadership.fence,)
        self._leads, self._leads_since_s = True, self._clock.now()
        unlisten = self._mirror.listen(self._on_change)
        try:
            self._wake()
            await while_leading(leadership, self._controller)
        finally:
            unlisten()
            self._leads, self._counts = False, {}

    def _wake(self) -> None:
        if self._leads:
            self._controller.wake(_KEY)

    def _on_change(self, touched: Touched) -> None:
        if any(is_kept_name(key.name) for key in touched.apps):
            self._wake()

    async def _reconcile(self, _key: str) -> Outcome:
        if not self._orders.fresh:
            return Done()  # it tells when it is
        due_s = self._looked_s + _PACE_S - self._clock.monotonic()
        if due_s > 0:
            return LookAgain(due_s)
        later = not_yet(self._mirror, self._config, self._clock)
        if later is not None:
            return later
        try:
            return await self._look(self._sight())
        except StoreUnavailable as error:
            return Retry(f"the store does not answer: {error.message}")
        finally:
            self._looked_s = self._clock.monotonic()

    async def _look(self, sight: Sight) -> Outcome:
        changes = [*removals(sight), *wishes(sight, self._config.batch_own)]
        applied = [await self._apply(change) for change in changes]
        self._counts = census(sight)
        if not all(applied):  # somebody was faster, or the leadership is lost: that ends this loop
            return LookAgain(_PACE_S)
        return LookAgain(_LOOK_S) if any(self._counts.values()) or sight.doubtful else Done()

    def _sight(self) -> Sight:
        orders = self._orders
        apps = {key: app for key, app in self._mirror.picture.apps.items() if is_kept_name(key.name)}
        carried = orders.carried()
        return Sight(
            {name: batch for name, batch in orders.unfinished.items() if name not in carried},
            apps,
            self._world(),
            uuid.uuid4().hex,
            remembered=self._mirror.remembered,
            doubtful=frozenset(
                name
                for name in map(batch_of, apps.values())
                if name is not None and (name in carried or self._may_come_back(name))
            ),
        )

    def _may_come_back(self, name: Name) -> bool:
        """A batch of which no record says that it has ended."""
        if self._orders.has_order(name):
            return not self._orders.is_readable(name)
        since_s = max(self._mirror.replaced_at_s, self._leads_since_s)
        return self._clock.now() - since_s < LOST_ORDER_GRACE_S

    async def _apply(self, change: Change) -> bool:
        """False where somebody else has changed something in between: it is decided anew."""
        revision = await commit(self._client, change, fence=self._fence)
        if revision is None:
            return False
        for note in change.notes:
            self._events.add(note)
        self._mirror.committed(change, revision)
        return True
