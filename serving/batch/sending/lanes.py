"""Rows that may go to the same endpoints: which wait, which have no answer yet, since when nobody answers any."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from serving.batch.rows.waiting import Waiting
from serving.batch.sending.places import LaneKey
from serving.batch.sending.verdict import Next, Reply, says_unknown_model

if TYPE_CHECKING:
    from serving.batch.sending.pending import Pending

_MOST_MODELS: Final = 1024  # that are known to have answered


@dataclass(slots=True, eq=False)
class Lane:
    """`open` are all rows without an answer, those on their way among them. `heard`: when one was answered last, or the
    first one came (`time.monotonic`)."""

    key: LaneKey
    heard: float
    waiting: Waiting[Pending, str]
    open: set[Pending] = field(default_factory=set)


class Lanes:
    """Those with rows. Belongs to one event loop."""

    def __init__(self, tranche: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Of each `tranche` of rows that came together the longest goes first."""
        self._tranche = tranche
        self._monotonic = monotonic
        self._lanes: dict[LaneKey, Lane] = {}
        self._models: set[str] = set()  # that have answered

    def __iter__(self) -> Iterator[Lane]:
        """May change meanwhile."""
        return iter(tuple(self._lanes.values()))

    def get(self, key: LaneKey) -> Lane | None:
        return self._lanes.get(key)

    def add(self, pending: Pending) -> Lane:
        """A row that was never here."""
        key = pending.lane
        found = self._lanes.get(key)
        if found is None:
            found = self._lanes[key] = Lane(key, self._monotonic(), Waiting(tranche=self._tranche))
        elif not found.open:
            found.heard = self._monotonic()
        found.open.add(pending)
        found.waiting.add(pending.row)
        return found

    def again(self, pending: Pending) -> Lane:
        """A row that was on its way waits again, before all others."""
        lane = self._lanes[pending.lane]
        lane.waiting.again(pending.row)
        return lane

    def judged(self, pending: Pending, reply: Reply) -> Reply:
        """A model that has answered rows and is not known any more is away: its rows wait for it."""
        model = pending.request.model
        if reply.next is not Next.ANSWER:
            return reply
        if says_unknown_model(reply):
            return replace(reply, next=Next.LATER) if model in self._models else reply
        if reply.fault is None and len(self._models) < _MOST_MODELS:
            self._models.add(model)
        return reply

    def answered(self, pending: Pending) -> None:
        self._lanes[pending.lane].heard = self._monotonic()

    def done(self, pending: Pending) -> None:
        """It has an answer, or nobody wants one."""
        lane = self._lanes.get(pending.lane)
        if lane is not None:
            lane.open.discard(pending)

    def any_waits(self) -> bool:
        return any(lane.waiting for lane in self._lanes.values())

    def left(self, endpoint: str) -> None:
        for lane in self._lanes.values():
            lane.waiting.left(endpoint)

    def tidy(self) -> None:
        """Forgets those without rows, with who computed which beginnings."""
        for lane in self:
            if not lane.open:
                del self._lanes[lane.key]
