"""The limits of a key, and the windows in which each is counted. Pure: time is an argument."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from typing import Final

_MINUTE_S: Final = 60.0
_DAY_S: Final = 86_400.0


class Period(Enum):
    """How long what was used counts. HELD: until it is given back."""

    MINUTE = "minute"
    DAY = "day"
    MONTH = "month"
    TOTAL = "total"
    HELD = "held"

    @property
    def is_budget(self) -> bool:
        """Long enough to be kept over restarts."""
        return self in (Period.DAY, Period.MONTH, Period.TOTAL)


REQUESTS_PER_MINUTE: Final = "requests_per_minute"
TOKENS_PER_MINUTE: Final = "tokens_per_minute"
CONCURRENT_REQUESTS: Final = "concurrent_requests"
TOKENS_PER_DAY: Final = "tokens_per_day"
TOKENS_PER_MONTH: Final = "tokens_per_month"
TOKENS_TOTAL: Final = "tokens_total"

# Fields of `KeyLimits`, in the order in which a request is judged by them.
PERIODS: Final[dict[str, Period]] = {
    TOKENS_TOTAL: Period.TOTAL,
    TOKENS_PER_MONTH: Period.MONTH,
    TOKENS_PER_DAY: Period.DAY,
    REQUESTS_PER_MINUTE: Period.MINUTE,
    TOKENS_PER_MINUTE: Period.MINUTE,
    CONCURRENT_REQUESTS: Period.HELD,
}
COUNTS_TOKENS: Final = frozenset({TOKENS_PER_MINUTE, TOKENS_PER_DAY, TOKENS_PER_MONTH, TOKENS_TOTAL})


@dataclass(frozen=True, slots=True)
class Window:
    """Windows of a period are numbered by time. `ends_at` is in unix seconds; infinite where it does not end."""

    number: int
    ends_at: float


def window_of(period: Period, now: float, key_id: str) -> Window:
    """The window at `now`, in unix seconds. The minutes of each key begin at a second of its own."""
    if period is Period.MINUTE:
        offset = zlib.crc32(key_id.encode()) % int(_MINUTE_S)
        number = math.floor((now - offset) / _MINUTE_S)
        return Window(number, (number + 1) * _MINUTE_S + offset)
    if period is Period.DAY:
        number = math.floor(now / _DAY_S)
        return Window(number, (number + 1) * _DAY_S)
    if period is Period.MONTH:
        moment = datetime.fromtimestamp(now, timezone.utc)
        number = moment.year * 12 + moment.month - 1
        following = datetime((number + 1) // 12, (number + 1) % 12 + 1, 1, tzinfo=timezone.utc)
        return Window(number, following.timestamp())
    return Window(0, math.inf)
