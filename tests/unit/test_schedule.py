"""Times of day at which more replicas run."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from serving.schedule import DAYS, ScheduledMinimum, minute_of_day, scheduled_minimum


def at(day: int, time: str) -> float:
    """Of the week that begins with Monday, 2 November 2026."""
    hours, minutes = time.split(":")
    return datetime(2026, 11, 2 + day, int(hours), int(minutes), tzinfo=timezone.utc).timestamp()


@pytest.mark.parametrize(("text", "minute"), [("00:00", 0), ("8:05", 485), ("23:59", 1439), ("24:00", 1440)])
def test_times_of_day(text: str, minute: int) -> None:
    assert minute_of_day(text) == minute


@pytest.mark.parametrize("text", ["", "8", "08:60", "24:01", "-1:00", "08:5", "8:00:00", "noon", "108:00"])
def test_what_is_no_time_of_day(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time of day"):
        minute_of_day(text)


def test_by_day() -> None:
    work = ScheduledMinimum(minute_of_day("08:00"), minute_of_day("20:00"), 4, frozenset(range(5)))
    assert [work.holds(at(day, "12:00")) for day in range(7)] == [True] * 5 + [False] * 2
    assert [work.holds(at(0, time)) for time in ("07:59", "08:00", "19:59", "20:00")] == [False, True, True, False]


def test_over_midnight() -> None:
    night = ScheduledMinimum(minute_of_day("22:00"), minute_of_day("02:00"), 2, frozenset({DAYS.index("fri")}))
    assert night.holds(at(4, "23:00"))
    assert night.holds(at(5, "01:59"))
    assert not night.holds(at(4, "01:00"))
    assert not night.holds(at(5, "23:00"))
    assert not night.holds(at(5, "02:00"))


def test_the_highest_counts() -> None:
    always = ScheduledMinimum(0, minute_of_day("24:00"), 1)
    noon = ScheduledMinimum(minute_of_day("12:00"), minute_of_day("13:00"), 5)
    assert scheduled_minimum((always, noon), at(0, "12:30")) == 5
    assert scheduled_minimum((always, noon), at(0, "13:30")) == 1
    assert scheduled_minimum((), at(0, "13:30")) == 0
