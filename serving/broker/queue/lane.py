"""The short items of a queue, or the long ones: classes with ageing, and a ring of tenants in each."""

from __future__ import annotations

import math
from typing import Final

from serving.broker.queue.flow import Alarms, Flow
from serving.broker.queue.items import HIGH, LOW, QueueSettings, Waiting
from serving.broker.queue.ring import Ring

_LEAST_S: Final = 0.001  # that a turn costs, so that items said to take no time are shared out, too


class Lane:
    """A flow competes in the class to which its first item has risen; that its others grow older costs nothing."""

    __slots__ = ("_deadlines", "_flows", "_oldest", "_queued", "_rings", "_rises", "_settings", "count", "running")

    def __init__(self, settings: QueueSettings, queued: dict[int, Waiting]) -> None:
        """`queued` holds the items of all lanes; who leaves is taken out of it."""
        self.count = 0
        self.running = 0
        self._settings = settings
        self._queued = queued
        self._flows: dict[tuple[str, int], Flow] = {}
        self._rings = {level: Ring() for level in range(HIGH, LOW - 1, -1)}
        self._oldest = {level: Alarms() for level in self._rings}  # when the first item of each flow was submitted
        self._rises = Alarms()
        self._deadlines = Alarms()

    def add(self, item: Waiting, now: float) -> None:
        self._queued[item.number] = item
        flow = self._flows.get((item.tenant, item.priority))
        if flow is None:
            flow = self._flows[item.tenant, item.priority] = Flow(item.tenant, item.priority)
        flow.push(item)
        self.count += 1
        self._place(flow, now)

    def remove(self, item: Waiting, now: float) -> None:
        self._drop(self._flows[item.tenant, item.priority], item, now)

    def level(self) -> int:
        """The highest class in which anybody waits; 0: nobody."""
        return next((level for level, ring in self._rings.items() if ring.busy), 0)

    def first(self, level: int) -> Waiting:
        """Who is next in a class in which somebody waits."""
        item = self._rings[level].next().first
        assert item is not None  # flows without items are in no ring
        return item

    def oldest(self, level: int) -> float:
        """When the oldest of those was submitted who are next in their flows of a class; math.inf: nobody waits."""
        return self._oldest[level].next()

    def take(self, now: float) -> Waiting:
        """There must be one."""
        ring = self._rings[self.level()]
        flow = ring.next()
        item = flow.first
        assert item is not None
        ring.pay(flow, max(item.expected_s, _LEAST_S), self._settings.tenant_weights.get(item.tenant, 1.0))
        self._drop(flow, item, now)
        return item

    def rise(self, now: float) -> None:
        """Puts those in a higher class who waited long enough for it."""
        while (flow := self._rises.pop_due(now)) is not None:
            self._place(flow, now)

    def expire(self, now: float) -> list[Waiting]:
        """Takes out those whose deadline has passed."""
        found: list[Waiting] = []
        while (flow := self._deadlines.pop_due(now)) is not None:
            item = flow.first_due(self._queued)
            assert item is not None
            found.append(item)
            self._drop(flow, item, now)
        return found

    def next_deadline(self) -> float:
        return self._deadlines.next()

    def _drop(self, flow: Flow, item: Waiting, now: float) -> None:
        del self._queued[item.number]
        self.count -= 1
        flow.drop(self._queued)
        self._place(flow, now)

    def _place(self, flow: Flow, now: float) -> None:
        """After its first item may have changed, or have risen."""
        first = flow.find_first(self._queued, self._settings.patience_s)
        level, rises_at = (0, math.inf) if first is None else self._risen(first, now)
        if level != flow.level:
            if flow.level:
                self._rings[flow.level].leave(flow)
                self._oldest[flow.level].set(flow, math.inf)
            flow.level = level
            if level:
                self._rings[level].join(flow)
        if first is not None:
            self._oldest[level].set(flow, first.submitted)
        due = flow.first_due(self._queued)
        self._rises.set(flow, rises_at)
        self._deadlines.set(flow, math.inf if due is None else due.deadline)
        if first is None:
            del self._flows[flow.tenant, flow.priority]

    def _risen(self, item: Waiting, now: float) -> tuple[int, float]:
        """The class that the item has risen to, and when it will rise again."""
        level, rises_at = item.priority, item.submitted + self._settings.ageing_s
        while level < HIGH and rises_at <= now:
            level += 1
            rises_at = item.submitted + (level - item.priority + 1) * self._settings.ageing_s
        return level, rises_at if level < HIGH else math.inf
