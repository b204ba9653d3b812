"""How many requests may be at one endpoint: additive increase, multiplicative decrease. Pure; `now` is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from serving.errors import InvalidArgument

_PROBED: Final = 1.25  # a window that has grown so far must have brought something
_GAIN: Final = 1.05  # at least so much more is something
_DOUBLED_GAIN: Final = 1.2  # of a window that was doubled
_LEAST_ANSWERS: Final = 8  # of which a rate is taken


@dataclass(frozen=True, slots=True)
class WindowConfig:
    """Requests at one endpoint: at first, at least, and at most. `fewer`: what a refusal leaves of them."""

    first: int = 16
    least: int = 1
    most: int = 256
    fewer: float = 0.7

    def __post_init__(self) -> None:
        if not (1 <= self.least <= self.first <= self.most and 0.0 < self.fewer < 1.0):
            raise InvalidArgument(f"{self}: wanted are 1 <= least <= first <= most and 0 < fewer < 1")


class Window:
    """Doubles from `first` on for as long as the endpoint answers so much more, then grows by one for each window of
    answers. A refusal leaves a part of it; so does growth that brings no more answers, because then requests only wait
    there: times grow with the window and the rate does not.

    Answers count by their work, so that long and short ones compare.
    """

    def __init__(self, config: WindowConfig | None = None) -> None:
        self._config = config or WindowConfig()
        self._limit = float(self._config.first)
        self._doubling = True
        self._known: tuple[float, float] | None = None  # the window that was worth it, and its rate
        self._cut_at = float("-inf")
        self._full = True
        self._begin(None)

    @property
    def limit(self) -> int:
        return int(self._limit)

    def answered(self, now: float, *, work: float, in_flight: int) -> None:
        """An answer came; `in_flight` were there with it. Only windows that are full say anything."""
        if self._since is None:
            self._begin(now)
        self._answers += 1
        self._work += work
        self._full = self._full and in_flight >= self.limit
        if self._answers >= max(self.limit, _LEAST_ANSWERS):
            self._judge(now)

    def refused(self, now: float, *, sent_at: float) -> None:
        """It takes no more. Those that were sent before the last cut say nothing new."""
        if sent_at <= self._cut_at:
            return
        self._cut_at = now
        self._doubling = False
        self._known = None
        self._set(self._limit * self._config.fewer, now)

    # ------------------------------------------------------------------------------------------------ of answers

    def _begin(self, now: float | None) -> None:
        self._since = now
        self._answers = 0
        self._work = 0.0
        self._full = True

    def _judge(self, now: float) -> None:
        assert self._since is not None
        seconds, work, full = now - self._since, self._work, self._full
        if not full or seconds <= 0.0:
            self._begin(now)
            return
        rate = work / seconds
        if self._known is None:
            self._known = (self._limit, rate)
            self._grow(now)
            return
        window, before = self._known
        if self._limit <= window:
            self._known = (window, 0.5 * (before + rate))
            self._grow(now)
        elif self._limit < window * _PROBED and self._limit < self._config.most:
            self._grow(now)
        elif rate >= before * (_DOUBLED_GAIN if self._doubling else _GAIN):
            self._known = (self._limit, rate)
            self._grow(now)
        else:
            self._doubling = False
            self._known = None
            self._set(max(window * 0.9, self._limit * self._config.fewer), now)

    def _grow(self, now: float) -> None:
        self._set(self._limit * 2 if self._doubling else self._limit + 1, now)

    def _set(self, limit: float, now: float) -> None:
        self._limit = min(max(limit, float(self._config.least)), float(self._config.most))
        self._begin(now)
