"""Whose turn it is among tenants."""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace
from typing import Final

from serving.broker.queue.flow import Flow

_MOST_IDLE: Final = 10_000  # accounts of tenants that wait for nothing


class _Seat:
    """A tenant's account, with its flows that wait here: one for each class that it was submitted in."""

    __slots__ = ("flows", "paid", "tenant")

    def __init__(self, tenant: str, paid: float) -> None:
        self.tenant = tenant
        self.paid = paid  # predicted seconds over weight
        self.flows: list[Flow] = []


class Ring:
    """Deficit round robin in which a turn is one item, and paid for after it was taken.

    Instead of rounds in which an account grows by a quantum until it covers an item, the tenant that has paid least is
    next: the order of infinitely small quanta, in logarithmic time for items of any length (start-time fair queueing).
    Between two tenants that wait all the time, predicted seconds by weight differ by no more than the longest item of
    each. Who comes anew starts level with who is next, and behind it; what it has paid is forgotten once the others
    have paid as much.
    """

    __slots__ = ("_order", "_pushed", "_seats", "busy")

    def __init__(self) -> None:
        self.busy = 0  # tenants that wait
        self._seats: dict[str, _Seat] = {}
        self._order: list[tuple[float, int, _Seat]] = []
        self._pushed = 0

    def join(self, flow: Flow) -> None:
        level = self._next_seat().paid if self.busy else 0.0
        seat = self._seats.get(flow.tenant)
        if seat is None:
            seat = self._seats[flow.tenant] = _Seat(flow.tenant, level)
            self._pushed += 1
            heappush(self._order, (level, self._pushed, seat))
        if seat.flows:
            flow.served = max(flow.served, min(other.served for other in seat.flows))
        else:
            self.busy += 1
        seat.flows.append(flow)
        if len(self._order) > self.busy + _MOST_IDLE:
            self._forget_idle()

    def leave(self, flow: Flow) -> None:
        seat = self._seats[flow.tenant]
        seat.flows.remove(flow)
        if not seat.flows:
            self.busy -= 1
            if self.busy == 0:
                self._seats.clear()
                self._order.clear()

    def next(self) -> Flow:
        """Whose turn it is; of its tenant's flows the one that was served least. There must be one (`busy`)."""
        flows = self._next_seat().flows
        return flows[0] if len(flows) == 1 else min(flows, key=lambda flow: flow.served)

    def pay(self, flow: Flow, seconds: float, weight: float) -> None:
        """What `next` answered was taken."""
        seat = self._next_seat()
        seat.paid += seconds / weight
        flow.served += seconds
        self._pushed += 1
        heapreplace(self._order, (seat.paid, self._pushed, seat))

    def _next_seat(self) -> _Seat:
        """Drops those on the way who wait for nothing: the others have paid as much."""
        while not self._order[0][2].flows:
            del self._seats[heappop(self._order)[2].tenant]
        return self._order[0][2]

    def _forget_idle(self) -> None:
        self._order = [entry for entry in self._order if entry[2].flows]
        heapify(self._order)
        self._seats = {seat.tenant: seat for _, _, seat in self._order}
