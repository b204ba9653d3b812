"""Minimum numbers of replicas by the time of day, UTC. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Final

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True, slots=True)
class ScheduledMinimum:
    """From minute `begin` of the day until minute `end` (the next day where that is not later), on `days` of DAYS."""

    begin: int
    end: int
    least: int
    days: frozenset[int] = frozenset(range(7))

    def holds(self, now: float) -> bool:
        moment = datetime.fromtimestamp(now, timezone.utc)
        minute = moment.hour * 60 + moment.minute
        if self.begin < self.end:
            return moment.weekday() in self.days and self.begin <= minute < self.end
        if minute >= self.begin:
            return moment.weekday() in self.days
        return minute < self.end and (moment - timedelta(days=1)).weekday() in self.days


def scheduled_minimum(schedule: Iterable[ScheduledMinimum], now: float) -> int:
    """The highest of those that hold at `now`, unix seconds; 0 when none does."""
    return max((entry.least for entry in schedule if entry.holds(now)), default=0)


def minute_of_day(text: str) -> int:
    """`"08:30"` → 510. Raises `ValueError` for anything else; `"24:00"` is the end of the day."""
    hours, colon, minutes = text.partition(":")
    if not (colon and hours.isdigit() and minutes.isdigit() and len(hours) <= 2 and len(minutes) == 2):
        raise ValueError(f"`{text}` is not a time of day such as 08:30")
    minute = int(hours) * 60 + int(minutes)
    if int(minutes) > 59 or minute > 24 * 60:
        raise ValueError(f"`{text}` is not a time of day such as 08:30")
    return minute
