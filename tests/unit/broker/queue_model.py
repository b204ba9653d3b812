"""The rules of the queue in the plainest words: what `WaitingQueue` must agree with. Looks at everything each time."""

from __future__ import annotations

import math

from serving.broker.queue import HIGH, QueueSettings, Waiting


class QueueModel:
    """Which items may be next, whatever their tenants have paid: of each tenant and class the first one."""

    def __init__(self, settings: QueueSettings) -> None:
        self.settings = settings
        self.waiting: dict[int, tuple[Waiting, bool]] = {}  # with whether it is long
        self.running: dict[int, bool] = {}

    def may_go(self, now: float, places: int) -> set[int]:
        """Items of which any one may be next, whatever the tenants have paid; the clock must have run forwards."""
        alive = [(item, long) for item, long in self.waiting.values() if item.deadline > now]
        if not alive or len(self.running) >= places:
            return set()
        firsts = self._firsts(alive)
        tops = {long: self._highest([item for item, kind in firsts if kind is long], now) for long in (False, True)}
        return {item.number for long in self._kinds(tops[False], tops[True], now, places) for item in tops[long]}

    def _highest(self, items: list[Waiting], now: float) -> list[Waiting]:
        level = max((self.level(item, now) for item in items), default=0)
        return [item for item in items if self.level(item, now) == level]

    def level(self, item: Waiting, now: float) -> int:
        rises = sum(now >= item.submitted + times * self.settings.ageing_s for times in range(1, HIGH))
        return min(item.priority + rises, HIGH)

    def _firsts(self, alive: list[tuple[Waiting, bool]]) -> list[tuple[Waiting, bool]]:
        flows: dict[tuple[bool, str, int], list[Waiting]] = {}
        for item, long in alive:
            flows.setdefault((long, item.tenant, item.priority), []).append(item)
        return [(min(items, key=self._key), key[0]) for key, items in flows.items()]

    def _key(self, item: Waiting) -> tuple[float, bool, float, int]:
        due = item.deadline if item.deadline < math.inf else item.submitted + self.settings.patience_s
        return due, item.deadline == math.inf, item.submitted, item.number

    def _kinds(self, shorts: list[Waiting], longs: list[Waiting], now: float, places: int) -> set[bool]:
        """Whether the next one is long; both where that hangs on whose turn it is."""
        if not shorts or not longs:
            return {bool(longs)}
        running_long = sum(self.running.values())
        if running_long >= places - self._kept(self.settings.short_share, places):
            return {False}
        if len(self.running) - running_long >= places - self._kept(self.settings.long_share, places):
            return {True}
        if self.level(shorts[0], now) != self.level(longs[0], now):
            return {self.level(longs[0], now) > self.level(shorts[0], now)}
        return {long.submitted + self.settings.ageing_s <= short.submitted for long in longs for short in shorts}

    @staticmethod
    def _kept(share: float, places: int) -> int:
        return max(math.floor(share * places), 1) if share > 0 and places > 1 else 0
