"""How many items a replica asks for: as many as keep it busy. Pure; `now` is an argument."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from enum import Enum
from statistics import fmean
from typing import Final

from serving.broker.puller.ahead import Ahead
from serving.errors import InvalidArgument

_STEP: Final = math.sqrt(2.0)  # between two numbers that are compared
_WORTH: Final = 0.5  # a step by which throughput grows less than by this power of it is not kept
_MOST: Final = 480  # items on each side of a comparison
_SURE: Final = 3.0  # standard errors between what is measured and what decides
_CHANGED: Final = math.log(1.5)  # between times at one number
_REST: Final = 4  # measurements between trials; doubled each time that nothing was found
_LONGEST_REST: Final = 16
_FULL: Final = 0.85  # of the number that is tried ran on average: else there was too little to do
_WARM: Final = 3  # times the number: ends after a change that do not count, as the quick ones come first
_LOOK: Final = 16  # items between looks at whether they are enough
_GAPS: Final = 64  # the latest of which the shortest counts
_SPARE: Final = 0.25  # of an item: a way that is shorter costs less than an item that waits in the wrong place
_IN_TIME_S: Final = 0.05  # of work that may be on its way, whatever its number is
_KNOWN: Final = 512  # the latest items whose times say how much work that is


class _Trial(Enum):
    NONE = 0  # at rest
    MORE = 1
    FEWER = 2


class Credits:
    """Climbs to where throughput grows no more.

    By Little's law throughput is the number that run over the time that each takes. So this ratio is measured at one
    number and at a neighbouring one, `_STEP` times as many or as few. It is averaged over the middle half of its
    logarithms: items whose times differ a hundredfold can be compared at all, and the more they differ, the more of
    them are waited for. What was measured while there was too little to do does not count. Each answer moves the number
    or lets it rest, longer each time that nothing was found; times that change cut the rest short.

    On top comes what is on its way: throughput times the shortest of the latest gaps between asking for an item and
    its start, commits of the broker included. A serial replica has 1, and 2 where the way to the broker and back takes
    more than a quarter of an item. Above the number that was found it is bounded by time, no more than `_IN_TIME_S` of
    work: items of a millisecond cover the whole way, and those of 40 ms and more have no more for it. Items are taken
    to be as long as the one that a moment falls into: of a few long ones among many short ones a long one, behind which
    the others would wait.
    """

    def __init__(self, *, least: int = 1, most: int, fixed: int = 0, ahead: Ahead | None = None) -> None:
        """`fixed`: always so many, and nothing is measured; 0: as found, within `least` and `most`. `ahead` may add to
        what is on its way: of a replica that lets no more than `at_once` begin. Raises `InvalidArgument`."""
        if not 0 < least <= most:
            raise InvalidArgument(f"credits: least is {least} and most {most}; 0 < least <= most is due")
        if fixed < 0:
            raise InvalidArgument(f"credits: fixed is {fixed}; 0 (as found) or more is due")
        self._least, self._most, self._fixed = least, most, fixed
        self._ahead = ahead
        self._waiting = 0  # that have come and have not begun
        self._base = least  # the number that was last found good
        self._tried = least
        self._trial = _Trial.NONE
        self._next_trial = _Trial.MORE
        self._rest = 0  # measurements until the next trial
        self._next_rest = _REST
        self._costs: list[float] = []  # logarithms of seconds of the replica for an item, at `_tried`
        self._at_base: list[float] = []  # those of the last measurement at `_base`
        self._since = 0.0  # when the measurement began
        self._warm = 0  # ends until then
        self._cost_s = 0.0  # seconds of the replica for an item, the average of the latest ones
        self._known = 0  # items in the next two, and those before that are left out: first calls take long
        self._mean_s = 0.0  # as `_cost_s`, of many more
        self._mean_square = 0.0
        self._busy = _Busy()
        self._gaps: deque[float] = deque(maxlen=_GAPS)
        self._asked: deque[float] = deque()  # since when each that is on its way is asked for

    @property
    def running(self) -> int:
        return self._busy.running

    @property
    def wanted(self) -> int:
        """How many items may be out: those that run here and those that are on their way."""
        return self._fixed or min(self._tried + self._on_the_way(), self._most)

    @property
    def at_once(self) -> int:
        """How many of them may run: as many as were found good, or as are tried."""
        return self._fixed or self._tried

    @property
    def found(self) -> int:
        """As `at_once`, without more that is being tried."""
        return self._fixed or min(self._base, self._tried)

    def came(self, now: float) -> None:
        """An item has come; `began` follows."""
        self._waiting += 1
        if self._asked:
            self._gaps.append(max(now - self._asked.popleft(), 0.0))

    def began(self, now: float) -> None:
        self._waiting = max(self._waiting - 1, 0)
        self._busy.change(1, now)
        self._ask(now)

    def started(self, now: float) -> None:
        """An item has come and begins."""
        self.came(now)
        self.began(now)

    def went(self) -> None:
        """An item has come and will not begin."""
        self._waiting = max(self._waiting - 1, 0)

    def ended(self, now: float, took_s: float) -> None:
        """An item ended `took_s` seconds after it began, waiting inside of the model included."""
        self._busy.change(-1, now)
        if self._ahead is not None:
            self._ahead.ended(took_s)
        if not self._fixed and 0 < took_s < math.inf:
            self._measure(now, took_s)
        self._ask(now)

    def _ask(self, now: float) -> None:
        """As many as are wanted and not asked for. Those of which fewer are wanted meanwhile come nevertheless, where
        there is work."""
        for _ in range(min(self.wanted - self.running - self._waiting, self._most) - len(self._asked)):
            self._asked.append(now)

    def _measure(self, now: float, took_s: float) -> None:
        beside = self._busy.beside(now, took_s)
        if beside > 0:
            cost_s = took_s / beside
            self._cost_s += (cost_s - self._cost_s) / _GAPS if self._cost_s else cost_s
            self._know(cost_s)
            self._count(math.log(cost_s), now)

    def _know(self, cost_s: float) -> None:
        self._known = min(self._known + 1, _LOOK + _KNOWN)
        if self._known > _LOOK:
            share = 1 / (self._known - _LOOK)
            self._mean_s += (cost_s - self._mean_s) * share
            self._mean_square += (cost_s * cost_s - self._mean_square) * share

    def _on_the_way(self) -> int:
        if not self._cost_s or not self._gaps:
            return 0
        if self._ahead is None:
            return self._covering()
        return int(min(max(self._covering(), self._ahead.places(self._tried, min(self._gaps))), self._ahead.most))

    def _covering(self) -> int:
        covered = min(self._gaps) / self._cost_s
        few = min(math.ceil(max(covered - _SPARE, 0.0)), self._base)
        if self._mean_square <= 0:
            return few
        in_time = min(covered, _IN_TIME_S * self._mean_s / self._mean_square)
        return max(few, math.ceil(max(in_time - _SPARE, 0.0)))

    def _count(self, cost: float, now: float) -> None:
        if self._warm > 0:
            self._warm -= 1
            self._since = now
            return
        self._costs.append(cost)
        if len(self._costs) % _LOOK:
            return
        if self._busy.beside(now, now - self._since) < _FULL * self._tried:
            self._give_up()
        elif len(self._costs) >= _MOST or _error(self._costs) <= self._needed_error():
            self._measured()

    def _needed_error(self) -> float:
        other = self._base if self._tried != self._base else self._neighbour(_Trial.MORE)
        return _WORTH * abs(math.log(self._tried / other)) / _SURE / math.sqrt(2.0)

    def _measured(self) -> None:
        """There is enough to decide."""
        costs, self._costs = self._costs, []
        if self._trial is _Trial.NONE:
            if self._at_base and abs(_middle(costs) - _middle(self._at_base)) > _CHANGED:
                self._rest, self._next_rest = 0, _REST
            self._at_base = costs
            self._rest -= 1
            if self._rest <= 0:
                self._begin_trial(self._next_trial)
            return
        gain = _middle(self._at_base) - _middle(costs)
        worth = _WORTH * math.log(self._tried / self._base)
        if gain >= worth if self._trial is _Trial.MORE else gain > worth:
            self._base, self._at_base, self._next_rest = self._tried, costs, _REST
            self._begin_trial(self._trial)
        else:
            self._give_up()

    def _begin_trial(self, trial: _Trial) -> None:
        """Of this kind, or of the other one at the end of what is allowed."""
        for kind in (trial, _Trial.FEWER if trial is _Trial.MORE else _Trial.MORE):
            number = self._neighbour(kind)
            if number != self._base:
                self._next_trial = _Trial.FEWER if kind is _Trial.MORE else _Trial.MORE
                return self._go_to(number, kind)
        return self._give_up()

    def _give_up(self) -> None:
        self._rest, self._next_rest = self._next_rest, min(2 * self._next_rest, _LONGEST_REST)
        self._go_to(self._base, _Trial.NONE)

    def _go_to(self, number: int, trial: _Trial) -> None:
        self._tried, self._trial = number, trial
        self._costs = []
        self._warm = _WARM * self.wanted

    def _neighbour(self, trial: _Trial) -> int:
        if trial is _Trial.MORE:
            return min(max(self._base + 1, round(self._base * _STEP)), self._most)
        return max(min(self._base - 1, round(self._base / _STEP)), self._least)


def _middle(values: Sequence[float]) -> float:
    """The average of the middle half."""
    quarter = len(values) // 4
    return fmean(sorted(values)[quarter : len(values) - quarter])


def _error(values: Sequence[float]) -> float:
    """Standard error of `_middle`, as of a normal distribution with the same quartiles; of few values a larger one, as
    their quartiles are not known well."""
    ordered = sorted(values)
    quarter = len(ordered) // 4
    root = math.sqrt(len(ordered))
    return 1.2 * (ordered[-1 - quarter] - ordered[quarter]) / 1.35 / root * (1 + 2 / root)


class _Busy:
    """How many ran over the latest time."""

    _KEPT: Final = 2048  # changes

    def __init__(self) -> None:
        self.running = 0
        self._times: list[float] = []
        self._areas: list[float] = []  # number × seconds until then
        self._numbers: list[int] = []  # from then on

    def change(self, by: int, now: float) -> None:
        if self._times:
            now = max(now, self._times[-1])
            area = self._areas[-1] + self.running * (now - self._times[-1])
        else:
            area = 0.0
        self.running = max(self.running + by, 0)
        self._times.append(now)
        self._areas.append(area)
        self._numbers.append(self.running)
        if len(self._times) > 2 * self._KEPT:
            del self._times[: self._KEPT], self._areas[: self._KEPT], self._numbers[: self._KEPT]

    def beside(self, now: float, seconds: float) -> float:
        """How many ran on average over the last `seconds`, which end with the last change; 0: that is too long ago."""
        since = now - seconds
        index = bisect_right(self._times, since) - 1
        if index < 0 or seconds <= 0:
            return 0.0
        before = self._areas[index] + self._numbers[index] * (since - self._times[index])
        return (self._areas[-1] - before) / seconds
