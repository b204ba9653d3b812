"""Which batch is begun next, and which one makes room for it. Pure; times are in unix seconds.

Tenants share alike: next is who has least running, then who was given least of late. Within a tenant the nearest
deadline is first. All runners see the same records, so that they choose alike; who claims first has the batch.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

HALF_LIFE_S: Final = 3600.0  # what a tenant was given counts half after so long
SLICE_S: Final = 30.0  # a batch that runs is left alone for so long
PRESSES_S: Final = 5.0  # a batch waits so long before another one makes room: some runner may have room


@dataclass(frozen=True, slots=True)
class Candidate:
    """A batch with work left. `running_since` is when its runner began with it; None: it waits."""

    namespace: str
    id: str
    created_at: float
    expires_at: float
    running_since: float | None = None
    here: bool = False  # it runs in the runner that asks

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.id

    @property
    def urgency(self) -> tuple[float, float, str]:
        """The least is first."""
        return self.expires_at, self.created_at, self.id


@dataclass(frozen=True, slots=True)
class Given:
    """What a batch has cost so far, in tokens (a line without any counts as one), as of `at`."""

    namespace: str
    cost: float
    at: float


def used(given: Iterable[Given], now: float) -> dict[str, float]:
    """By tenant, what it was given of late: of the past each half-life counts half of the one after it."""
    sums: dict[str, float] = {}
    for one in given:
        weight = 0.5 ** (max(0.0, now - one.at) / HALF_LIFE_S)
        sums[one.namespace] = sums.get(one.namespace, 0.0) + one.cost * weight
    return sums


def in_turn(candidates: Collection[Candidate], used_by: Mapping[str, float]) -> Iterator[Candidate]:
    """Those that wait, who is next first; each is placed as if those before it were running."""
    running = _running(candidates)
    queues: dict[str, list[tuple[tuple[float, float, str], Candidate]]] = {}
    for one in candidates:
        if one.running_since is None:
            queues.setdefault(one.namespace, []).append((one.urgency, one))
    for queue in queues.values():
        heapq.heapify(queue)

    def place(tenant: str) -> tuple[int, float, tuple[float, float, str], str]:
        return running.get(tenant, 0), used_by.get(tenant, 0.0), queues[tenant][0][0], tenant

    tenants = [place(tenant) for tenant in queues]
    heapq.heapify(tenants)
    while tenants:
        tenant = heapq.heappop(tenants)[-1]
        yield heapq.heappop(queues[tenant])[1]
        running[tenant] = running.get(tenant, 0) + 1
        if queues[tenant]:
            heapq.heappush(tenants, place(tenant))


def displaced(
    candidates: Collection[Candidate],
    used_by: Mapping[str, float],
    now: float,
    *,
    kept: Collection[tuple[str, str]] = (),
) -> Candidate | None:
    """The batch of this runner, which is full, that is put back so that a tenant with nothing running gets its turn.

    It is of the tenant with most running, the one with the latest deadline, and has had its slice. A tenant with one
    batch running gives way only to one that was given less. None: nobody needs to. `candidates` that wait are those
    which would be begun here at once; the running ones named in `kept` stay.
    """
    running = _running(candidates)
    starved = next((one for one in in_turn(candidates, used_by) if not running.get(one.namespace)), None)
    if starved is None:
        return None

    def rank(one: Candidate) -> tuple[int, float, tuple[float, float, str]]:
        return running[one.namespace], used_by.get(one.namespace, 0.0), one.urgency

    least = used_by.get(starved.namespace, 0.0)
    settled = (one for one in candidates if one.here and one.running_since is not None and one.key not in kept)
    sliced = (one for one in settled if now - (one.running_since or 0.0) >= SLICE_S)
    fair = [one for one in sliced if rank(one)[0] > 1 or rank(one)[1] > least]
    return max(fair, key=rank, default=None)


def _running(candidates: Iterable[Candidate]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for one in candidates:
        if one.running_since is not None:
            counts[one.namespace] = counts.get(one.namespace, 0) + 1
    return counts
