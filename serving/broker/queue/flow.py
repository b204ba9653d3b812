"""The items of one tenant that were submitted in one class; and times at which such flows want to be looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from heapq import heapify, heappop, heappush

from serving.broker.queue.items import Waiting

_SLACK = 16  # gone entries that are kept before a heap is made anew


class Flow:
    """Earliest deadline first, then the order of submission.

    Items that are gone stay in the heaps until they come to the top, or until they are more than half: `queued` says
    who is there.
    """

    __slots__ = ("_due", "_plain", "count", "first", "level", "priority", "served", "tenant")

    def __init__(self, tenant: str, priority: int) -> None:
        self.tenant = tenant
        self.priority = priority
        self.level = 0  # the class it competes in; 0: none yet
        self.first: Waiting | None = None  # who is next, as `find_first` found
        self.served = 0.0  # predicted seconds, beside the tenant's other flows of the level
        self.count = 0
        self._due: list[Waiting] = []  # with a deadline
        self._plain: list[Waiting] = []

    def push(self, item: Waiting) -> None:
        heappush(self._due if item.deadline < math.inf else self._plain, item)
        self.count += 1

    def drop(self, queued: Mapping[int, Waiting]) -> None:
        """One item is in `queued` no longer."""
        self.count -= 1
        if len(self._due) + len(self._plain) > 2 * self.count + _SLACK:
            self._due = _living(self._due, queued)
            self._plain = _living(self._plain, queued)

    def first_due(self, queued: Mapping[int, Waiting]) -> Waiting | None:
        """The one with the earliest deadline."""
        return _top(self._due, queued)

    def find_first(self, queued: Mapping[int, Waiting], patience_s: float) -> Waiting | None:
        due, plain = _top(self._due, queued), _top(self._plain, queued)
        if due is None or plain is None:
            self.first = due if plain is None else plain
        else:
            self.first = due if due.deadline <= plain.submitted + patience_s else plain
        return self.first


def _top(heap: list[Waiting], queued: Mapping[int, Waiting]) -> Waiting | None:
    while heap:
        if queued.get(heap[0].number) is heap[0]:
            return heap[0]
        heappop(heap)
    return None


def _living(heap: list[Waiting], queued: Mapping[int, Waiting]) -> list[Waiting]:
    # By number, as an item that was removed and added again is there twice.
    found = list({item.number: item for item in heap if queued.get(item.number) is item}.values())
    heapify(found)
    return found


class Alarms:
    """At most one time for each flow; the earliest first."""

    __slots__ = ("_at", "_heap", "_pushed")

    def __init__(self) -> None:
        self._at: dict[Flow, float] = {}
        self._heap: list[tuple[float, int, Flow]] = []
        self._pushed = 0  # settles ties

    def set(self, flow: Flow, at: float) -> None:
        """In place of the flow's former one; math.inf: none."""
        if self._at.get(flow, math.inf) == at:
            return
        if at == math.inf:
            del self._at[flow]
            return
        self._at[flow] = at
        self._pushed += 1
        heappush(self._heap, (at, self._pushed, flow))
        if len(self._heap) > 2 * len(self._at) + _SLACK:
            self._heap = [(at, index, flow) for index, (flow, at) in enumerate(self._at.items())]
            heapify(self._heap)
            self._pushed = len(self._heap)

    def next(self) -> float:
        """The earliest; math.inf: there is none."""
        heap = self._heap
        while heap and self._at.get(heap[0][2]) != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else math.inf

    def pop_due(self, now: float) -> Flow | None:
        """A flow whose time has come, without its alarm."""
        if self.next() > now:
            return None
        flow = heappop(self._heap)[2]
        del self._at[flow]
        return flow
