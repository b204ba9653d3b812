"""How many replicas a queue asks for. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from serving.master.backlog import Backlog

TOLERANCE: Final = 0.1  # of a target, that load may be off without a reason to change anything
MOST_TIMES: Final = 4.0  # how far what was measured too late can raise the number: the next window knows better
_EARLY: Final = 0.5  # of the wanted age: below it there are more replicas than needed


def needed(size: int, ongoing: float, backlog: Backlog | None) -> Iterator[tuple[int, str]]:
    """The least, whatever the targets say: one for what waits; those that run long items, as a drain would cut these
    off; all there are while a broker is silent."""
    items = backlog.items if backlog is not None else 0
    if size == 0 and ongoing > 0:
        yield 1, f"{ongoing:.3g} requests wait for the first replica"
    elif items > 0:
        yield 1, f"{items:,} items wait or run at brokers"
    if backlog is not None and backlog.busy:
        yield min(size, len(backlog.busy)), f"{len(backlog.busy)} replicas run items that a drain would cut off"
    if backlog is not None and not backlog.known:
        yield size, "a broker has not said what waits"


def wish_for_age(backlogs: Sequence[Backlog], wanted_s: float, size: int, *, settled: bool) -> tuple[float, str]:
    """How many replicas keep the oldest item younger than `wanted_s`, not rounded, and why.

    `backlogs` are those of the window, at least one. With the mean time of an item and the places of a replica the
    queue's whole work is known, and with it how many replicas do it in time. What has waited for too long all the same
    asks for more of what there is, once that has been there for a while (`settled`). Never more than have something to
    do; fewer only while the oldest is young, and never fewer than are busy.
    """
    last = backlogs[-1]
    places = [one.places_per_replica for one in backlogs if one.replicas]
    told = f"the oldest of {last.queued:,} items waits for {last.oldest_age_s:.3g} s, {wanted_s:.3g} are wanted"
    if not places:  # no replica has asked yet: the first one tells how much it takes
        return (size if last.items else 0), told
    per_replica = sum(places) / len(places)
    busy = _mean([one.running for one in backlogs]) / per_replica
    in_time = _mean([one.work_s for one in backlogs]) / (wanted_s * per_replica)
    late = last.oldest_age_s / wanted_s
    if late > 1 + TOLERANCE and settled:
        number = max(in_time, max(size, 1) * min(late, MOST_TIMES))
    elif late >= _EARLY or (last.queued and not last.work_s):
        number = max(in_time, size)
    else:
        number = max(in_time, busy)
    return min(number, max(one.items for one in backlogs) / per_replica), told


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
