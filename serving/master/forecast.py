"""The pattern of a load that repeats itself: what was seen, by the time of the period, and what is expected. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from serving.master.autoscaling import Expected, Sample

PART_S: Final = 300.0  # the length of a part of the period, unless there would be too few or too many
_FEWEST: Final = 12
_MOST: Final = 2016  # a week of five minutes
_UNKNOWN: Final = -1.0
_NEWEST: Final = 0.5  # the weight of the last period
_COVERED: Final = 0.5  # of a part must have been looked at, else it is not known

Triple = tuple[float, float, float]  # requests that run or wait, requests a second, cores


def parts_of(period_s: float) -> int:
    """Into how many parts a period is divided."""
    return max(_FEWEST, min(_MOST, math.ceil(period_s / PART_S)))


@dataclass(slots=True)
class Pattern:
    """Of one deployment. Times are unix seconds."""

    period_s: float
    values: list[Triple] = field(default_factory=list)
    _part: int = -1  # which is looked at now, counted from the beginning of time
    _seen: list[Triple] = field(default_factory=list)
    _first_at: float = 0.0
    _last_at: float = 0.0

    def __post_init__(self) -> None:
        if len(self.values) != parts_of(self.period_s):
            self.values = [(_UNKNOWN, _UNKNOWN, _UNKNOWN)] * parts_of(self.period_s)

    @property
    def part_s(self) -> float:
        return self.period_s / len(self.values)

    def observe(self, sample: Sample, unix_s: float) -> bool:
        """True when a part is over, so that the values have changed."""
        part = int(unix_s // self.part_s)
        changed = part != self._part and self._close()
        if part != self._part:
            self._part, self._seen, self._first_at = part, [], unix_s
        self._seen.append((sample.ongoing, sample.requests_per_s, sample.cpu_cores))
        self._last_at = unix_s
        return changed

    def expected(self, unix_s: float, ahead_s: float) -> Expected:
        """The most of each value that earlier periods had from now until `ahead_s` later; 0.0 where none is known."""
        first, last = int(unix_s // self.part_s), int((unix_s + ahead_s) // self.part_s)
        found = [self.values[part % len(self.values)] for part in range(first, last + 1)]
        ongoing, rate, cores = (max(0.0, *column) for column in zip(*found, strict=True))
        return Expected(ongoing, rate, cores, ahead_s)

    def _close(self) -> bool:
        """The part that was looked at is over."""
        if not self._seen or self._last_at - self._first_at < _COVERED * self.part_s:
            return False
        place = self._part % len(self.values)
        means = [sum(column) / len(self._seen) for column in zip(*self._seen, strict=True)]
        before = self.values[place]
        self.values[place] = (
            _merged(before[0], means[0]),
            _merged(before[1], means[1]),
            _merged(before[2], means[2]),
        )
        return True


def _merged(before: float, now: float) -> float:
    return now if before == _UNKNOWN else _NEWEST * now + (1 - _NEWEST) * before
