"""How many requests may be at one endpoint: additive increase, multiplicative decrease. Pure; `now` is given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from serving.errors import InvalidArgument

_PROBED: Final = 1.25  # a window that has grown so far must have brought something
_GAIN: Final = 1.05  # at least so much more is something
_DOUBLED_GAIN: Final = 1.1  # of a window that was doubled
_LESS: Final = 0.1  # of a window that grew for nothing, and twice as much each further time
_LEAST_LEFT: Final = 0.5
_LEAST_ANSWERS: Final = 8  # of which a rate is taken
_WAITING_THERE: Final = 2  # times as many as an engine computes together keep it full


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

    def told(self, at_once: int) -> WindowConfig:
        """Of an endpoint that says how many it computes together (0: it does not): from the beginning these, and as
        many that wait there, so that whoever ends there has a successor in the very next step. More would only wait.
        """
        if at_once < 1:
            return self
        most = min(max(_WAITING_THERE * at_once, self.least), self.most)
        return replace(self, first=most, most=most)


class Window:
    """Doubles from `first` on for as long as the endpoint answers so much more, then grows by one for each window of
    answers. A refusal leaves a part of it; so does growth that brings no more answers, because then requests only wait
    there: times grow with the window and the rate does not.

    The rate is that of Little's law, requests there by the time of each, as answers come in bursts. They count by
    their work, so that long and short ones compare. What was sent before the window changed says nothing of it.
    """

    def __init__(self, config: WindowConfig | None = None) -> None:
        self._config = config or WindowConfig()
        self._limit = float(self._config.first)
        self._doubling = True
        self._known: tuple[float, float] | None = None  # the window that was worth it, and its rate
        self._vain = 0  # how often in a row it grew for nothing: it is too large by far, then
        self._cut_at = float("-inf")
        self._begin(float("-inf"))

    @property
    def limit(self) -> int:
        return int(self._limit)

    def answered(self, now: float, *, sent_at: float, work: float, in_flight: int) -> None:
        """An answer came; `in_flight` were there with it. Only windows that are full say anything."""
        if in_flight < self.limit:
            self._begin(now)
            return
        if sent_at < self._since and self._measures:
            return
        self._answers += 1
        if self._answers <= self._passed_over:
            return
        self._work += work
        self._seconds += now - sent_at
        if self._answers - self._passed_over >= max(self.limit, _LEAST_ANSWERS):
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

    @property
    def _measures(self) -> bool:
        """Whether this window is one whose rate counts, and not one on the way there."""
        known = self._known
        return known is None or self._doubling or self._limit >= min(known[0] * _PROBED, self._config.most)

    def _begin(self, now: float) -> None:
        self._since = now
        self._answers = 0
        self._passed_over = self.limit if self._measures else 0  # who came as the window grew met fewer than it holds
        self._work = 0.0
        self._seconds = 0.0

    def _judge(self, now: float) -> None:
        rate = self.limit * self._work / self._seconds if self._seconds > 0.0 else 0.0
        if self._known is None or not self._measures:
            self._known = self._known or (self._limit, rate)
            self._grow(now)
        elif self._limit <= self._known[0]:  # as large as it may be
            self._known = (self._limit, rate)
            self._begin(now)
        elif rate >= self._known[1] * (_DOUBLED_GAIN if self._doubling else _GAIN):
            self._known = (self._limit, rate)
            self._vain = 0
            self._grow(now)
        else:
            window = self._known[0]
            self._doubling = False
            self._known = None
            self._vain += 1
            self._set(window * max(_LEAST_LEFT, 1.0 - _LESS * 2 ** (self._vain - 1)), now)

    def _grow(self, now: float) -> None:
        self._set(self._limit * 2 if self._doubling else self._limit + 1, now)

    def _set(self, limit: float, now: float) -> None:
        self._limit = min(max(limit, float(self._config.least)), float(self._config.most))
        self._begin(now)
