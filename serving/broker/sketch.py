"""Quantiles of times without keeping the times. Pure."""

from __future__ import annotations

import math
from typing import Final

_GROWTH: Final = math.log(1.1)  # a bucket's upper end over its lower one: answers are right within 5 %
_LEAST_S: Final = 1e-6
_MOST_S: Final = 1e9
_FADED: Final = 0.05  # of one observation; less is dropped


class Quantiles:
    """Of seconds, the latest `window` or so: what is older counts half with each further window.

    Holds at most some 360 weights, in buckets that each are 10 % wider than the one before; in practice a dozen. The
    median moves with each observation in constant time, other quantiles look at all buckets.
    """

    __slots__ = ("_at", "_below", "_fades_at", "_total", "_weights")

    def __init__(self, window: int = 1000) -> None:
        self._fades_at = 2.0 * window
        self._weights: dict[int, float] = {}
        self._total = 0.0
        self._at = 0  # the median's bucket
        self._below = 0.0  # weight of all buckets below it

    @property
    def count(self) -> float:
        """Observations that still count, each by what it weighs now."""
        return self._total

    def add(self, seconds: float) -> None:
        """Numbers beyond a microsecond and thirty years count as these."""
        bucket = round(math.log(min(max(seconds, _LEAST_S), _MOST_S)) / _GROWTH)
        if not self._weights:
            self._at = bucket
        self._weights[bucket] = self._weights.get(bucket, 0.0) + 1.0
        self._total += 1.0
        if bucket < self._at:
            self._below += 1.0
        if self._total >= self._fades_at:
            self._fade()
        self._settle()

    def median(self) -> float:
        """Seconds; 0 where nothing was seen."""
        return math.exp(self._at * _GROWTH) if self._weights else 0.0

    def quantile(self, share: float) -> float:
        """Seconds that `share` (0 to 1) of the observations do not exceed; 0 where nothing was seen."""
        seen = 0.0
        bucket = None
        for bucket in sorted(self._weights):
            seen += self._weights[bucket]
            if seen >= share * self._total:
                break
        return 0.0 if bucket is None else math.exp(bucket * _GROWTH)

    def _settle(self) -> None:
        weights, half = self._weights, self._total / 2
        while self._below >= half:
            self._at -= 1
            self._below -= weights.get(self._at, 0.0)
        while self._below + weights.get(self._at, 0.0) < half:
            self._below += weights.get(self._at, 0.0)
            self._at += 1

    def _fade(self) -> None:
        self._weights = {bucket: weight / 2 for bucket, weight in self._weights.items() if weight / 2 >= _FADED}
        self._total = sum(self._weights.values())
        self._below = sum(weight for bucket, weight in self._weights.items() if bucket < self._at)
