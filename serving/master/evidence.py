"""What the replicas of both sides of a canary have answered since its step began."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from serving.master.canary import Evidence
from serving.master.model import Goal, Load, Replica, Report, load_of
from serving.master.names import ReplicaName

SAMPLE_S: Final = 0.5  # between two samples
_Process = tuple[str, int]  # a replica's id and the pid on its node


@dataclass(slots=True)
class _Sum:
    requests: int = 0
    failed: int = 0
    timed: int = 0
    ends: int = 0
    within: dict[float, int] = field(default_factory=dict)

    def add(self, now: Load, before: Load) -> None:
        self.timed += now.requests - before.requests
        self.requests += now.requests - before.requests + now.streams - before.streams
        self.failed += now.failed - before.failed + now.failed_streams - before.failed_streams
        earlier = dict(before.within)
        for bound, count in now.within:
            self.within[bound] = self.within.get(bound, 0) + count - earlier.get(bound, 0)

    def evidence(self) -> Evidence:
        return Evidence(self.requests, self.failed, self.timed, tuple(sorted(self.within.items())), self.ends)


@dataclass(slots=True)
class Witness:
    """Of one deployment. What a process had done before it was first seen in a step counts for nothing.

    A master that has just begun therefore begins to count anew: a step only gets longer by that.
    """

    _since: float = math.nan
    _sampled_at: float = -math.inf
    _last: dict[_Process, Load] = field(default_factory=dict)
    _restarts: dict[str, int] = field(default_factory=dict)  # by a replica's id
    _new: _Sum = field(default_factory=_Sum)
    _old: _Sum = field(default_factory=_Sum)

    def look(
        self,
        since: float,
        goal: Goal,
        rows: Collection[Replica],
        reports: Callable[[ReplicaName], Report | None],
        now: float,
    ) -> None:
        """One sample of `rows`, which are the deployment's. `since`: when the step began, 0.0 while it has not.

        Until the next step begins, what the one before showed still counts. `now` is in monotonic seconds.
        """
        if since and since != self._since:
            self._since = since
            self._last, self._restarts, self._new, self._old = {}, {}, _Sum(), _Sum()
        elif now < self._sampled_at + SAMPLE_S:
            return
        self._sampled_at = now
        for row in rows:
            side = self._new if goal.is_current(row) else self._old
            side.ends += max(0, row.restarts - self._restarts.get(row.id, row.restarts))
            self._restarts[row.id] = row.restarts
            load = load_of(row, reports(row.name))
            if load is None:
                continue
            process = (row.id, row.pid)
            side.add(load, self._last.get(process, load))
            self._last[process] = load
        living = {(row.id, row.pid) for row in rows}
        self._last = {process: load for process, load in self._last.items() if process in living}

    @property
    def new(self) -> Evidence:
        return self._new.evidence()

    @property
    def old(self) -> Evidence:
        return self._old.evidence()
