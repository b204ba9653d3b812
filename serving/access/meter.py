"""What one gateway uses of one key's limits, in memory. Pure: time is an argument."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from serving._proto import records_pb2 as pb
from serving.access.shares import Own, Share
from serving.access.windows import COUNTS_TOKENS, PERIODS, Period, Window, window_of

_AHEAD_S: Final = 10.0  # of demand, that is held ahead of a budget
_DEMAND_S: Final = 60.0
_MEMORY_S: Final = 10.0  # in which most of what was asked for is forgotten


@dataclass(slots=True)
class Counter:
    """One limit. `published` is the share as it stands in etcd; `granted` is never more than it allows.

    `wanted` follows demand in steps, so that small changes are nobody's news.
    """

    name: str
    limit: int
    period: Period
    window: Window
    granted: int = 0
    next: int = 0
    used: int = 0
    need: int = 0  # of the requests that wait
    published: Share | None = None
    free: int | None = None  # of the window, when it was last seen; None: never
    hopeless_until: float = 0.0
    changed: bool = False  # its limit, since it was written
    _recent: float = 0.0  # what was asked for, forgotten as time passes; of places held: the peak
    _recent_at: float = 0.0
    _largest: float = 1.0

    def roll(self, now: float, key_id: str) -> None:
        """Begins a new window when it is time. A clock that steps back by less than a window changes nothing."""
        same = self._recent_at <= now < self.window.ends_at  # the usual case, without asking the calendar
        found = self.window if same else window_of(self.period, now, key_id)
        if found.number != self.window.number and found.number != self.window.number - 1:
            self.window = found
            self.used, self.granted = 0, self.next
            self.free = self.limit if self.period.is_budget else None
            self.hopeless_until = 0.0
        kept = math.exp(-max(0.0, now - self._recent_at) / _MEMORY_S)
        self._recent, self._recent_at = self._recent * kept, now
        self._largest = max(1.0, self._largest * kept)

    def asked(self, amount: int) -> None:
        """Demand, be it met or not. After `roll`."""
        if self.period is Period.HELD:
            self._recent = max(self._recent, float(self.used + amount))
        else:
            self._recent += amount
        self._largest = max(self._largest, float(min(amount, self.limit)))

    @property
    def counts_tokens(self) -> bool:
        """Else it counts requests."""
        return self.name in COUNTS_TOKENS

    @property
    def demand(self) -> int:
        """Of a minute, as the last seconds tell it; at most the limit."""
        scale = 1.0 if self.period is Period.HELD else _DEMAND_S / _MEMORY_S
        return min(self.limit, round(self._recent * scale))

    def room(self, *, away: bool, gateways: int) -> int:
        """What may be taken now. `away`: etcd does not answer, and `gateways` were there when it did."""
        left = self.granted - self.used
        if not away:
            return left
        if self.period.is_budget:
            return left + (self.limit if self.free is None else max(0, self.free))
        return max(self.granted, max(1, self.limit // max(1, gateways))) - self.used

    def own(self, gateway: str) -> Own:
        """For a plan."""
        wanted, before = self.demand, self.published.wanted if self.published is not None else 0
        if wanted and abs(wanted - before) <= max(1, self.limit // 8):
            wanted = max(1, before)
        ahead = math.ceil(self.demand * _AHEAD_S / _DEMAND_S)
        return Own(gateway, self.used, self.need, wanted, math.ceil(self._largest), ahead)

    def yield_to(self, plan: Share) -> None:
        """Uses no more than the plan from now on, before it is written."""
        if plan.window == self.window.number:
            self.granted = max(self.used, min(self.granted, plan.granted))
        self.next = min(self.next, plan.next)

    def wrote(self, plan: Share, free: int) -> None:
        """The plan stands in etcd."""
        self.published = plan
        self.changed = False
        self.next = plan.next
        self.granted = plan.granted if plan.window == self.window.number else plan.next
        self.free = free


@dataclass(slots=True)
class Reservation:
    """Places of one request in every limit of its key. Ended by `Meter.settle`, once."""

    tokens: int
    windows: dict[str, int] = field(default_factory=dict)


class Meter:
    """All limits of one key at one gateway."""

    def __init__(self, key_id: str, limits: pb.KeyLimits, now: float) -> None:
        self.key_id = key_id
        self.counters: dict[str, Counter] = {}
        self.set_limits(limits, now)

    def set_limits(self, limits: pb.KeyLimits, now: float) -> None:
        """What is used already stays used."""
        kept = {}
        for name, period in PERIODS.items():
            limit = int(getattr(limits, name))
            if not limit:
                continue
            counter = self.counters.get(name) or Counter(name, limit, period, window_of(period, now, self.key_id))
            counter.changed |= counter.limit != limit
            counter.limit = limit
            counter.hopeless_until = 0.0
            kept[name] = counter
        self.counters = kept

    def roll(self, now: float) -> None:
        for counter in self.counters.values():
            counter.roll(now, self.key_id)

    def refusing(self, tokens: int, *, away: bool = False, gateways: int = 1) -> Counter | None:
        """The first limit that has no room for one request of so many tokens."""
        for counter in self.counters.values():
            if counter.room(away=away, gateways=gateways) < _amount(counter, tokens):
                return counter
        return None

    def reserve(self, tokens: int) -> Reservation:
        """Takes the places of one request; to be asked for with `refusing` before."""
        reservation = Reservation(tokens)
        for counter in self.counters.values():
            counter.used += _amount(counter, tokens)
            reservation.windows[counter.name] = counter.window.number
        return reservation

    def asked(self, tokens: int) -> None:
        for counter in self.counters.values():
            counter.asked(_amount(counter, tokens))

    def waits(self, tokens: int, *, sign: int) -> None:
        """A request begins (1) or ends (-1) to wait for room."""
        for counter in self.counters.values():
            counter.need = max(0, counter.need + sign * _amount(counter, tokens))

    def settle(self, reservation: Reservation, tokens: int, now: float) -> None:
        """The request has ended, and cost so many tokens. More than was reserved is a debt of the current window."""
        self.roll(now)
        over = tokens - reservation.tokens
        for name, window in reservation.windows.items():
            counter = self.counters.get(name)
            if counter is None:
                continue
            if counter.period is Period.HELD:
                counter.used = max(0, counter.used - 1)
            elif counter.counts_tokens and (over > 0 or window == counter.window.number):
                counter.used = max(0, counter.used + over)

    def withdraw(self, reservation: Reservation) -> None:
        """The request was not begun after all: nothing of it counts."""
        for name, window in reservation.windows.items():
            counter = self.counters.get(name)
            if counter is not None and window == counter.window.number:
                counter.used = max(0, counter.used - _amount(counter, reservation.tokens))

    @property
    def idle(self) -> bool:
        """True when nothing was asked for a while and nothing runs."""
        return not any(
            counter.demand or counter.need or (counter.period is Period.HELD and counter.used)
            for counter in self.counters.values()
        )


def _amount(counter: Counter, tokens: int) -> int:
    return tokens if counter.counts_tokens else 1
