"""What a generation more costs those that run: how many may run beside others without slowing these down. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

_KEPT: Final = 0.98  # of what older steps count, for each newer one
_LEAST_SPREAD: Final = 0.25  # of the numbers of generations, squared: with less a slope says nothing
_LONGEST: Final = 2.0  # times what was to be expected; more is somebody else's, who took the processor meanwhile
_SURE: Final = 2.0  # standard errors
_ROUNDING: Final = 1e-6  # of a number of generations


@dataclass(frozen=True, slots=True)
class _Line:
    """`error`: the standard error of `each`."""

    fixed: float
    each: float
    error: float


class StepCost:
    """Seconds of a step are about `fixed + each * generations`: least squares over recent steps, old ones fade.

    Only steps that computed one token for each generation belong here: those with prompts take what prompts take.
    """

    def __init__(self) -> None:
        self._weight = 0.0
        self._running = 0.0
        self._seconds = 0.0
        self._squares = 0.0
        self._products = 0.0
        self._seconds_squares = 0.0

    def note(self, running: int, seconds: float) -> None:
        line = self._line()
        if line is not None and (expected := line.fixed + line.each * running) > 0:
            seconds = min(seconds, _LONGEST * expected)
        self._weight = self._weight * _KEPT + 1.0
        self._running = self._running * _KEPT + running
        self._seconds = self._seconds * _KEPT + seconds
        self._squares = self._squares * _KEPT + running * running
        self._products = self._products * _KEPT + running * seconds
        self._seconds_squares = self._seconds_squares * _KEPT + seconds * seconds

    def beside(self, others: int, share: float) -> int | None:
        """How many more may run while `others` do, so that steps of these take at most `share` longer.

        None: not known, as steps with different numbers of generations were not seen lately.
        """
        line = self._line()
        if line is None:
            return None
        alone = line.fixed + line.each * others
        each = line.each + _SURE * line.error  # noise must not make a generation look cheap
        if alone <= 0 or each <= 0:
            return None
        return math.floor(share * alone / each + _ROUNDING)

    def _line(self) -> _Line | None:
        if not self._weight:
            return None
        mean, seconds = self._running / self._weight, self._seconds / self._weight
        spread = self._squares / self._weight - mean * mean
        if spread < _LEAST_SPREAD:
            return None
        each = (self._products / self._weight - mean * seconds) / spread
        unexplained = max(0.0, self._seconds_squares / self._weight - seconds * seconds - each * each * spread)
        return _Line(seconds - each * mean, each, math.sqrt(unexplained / (spread * self._weight)))
