"""What a controller counts. Pure; `serving.observe.metrics` shows it to Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

DURATION_BOUNDS_S: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0)


@dataclass(slots=True)
class ControllerStats:
    """`durations` counts the runs per bound of `DURATION_BOUNDS_S`, with one more place for longer ones."""

    runs: Counter[str] = field(default_factory=Counter)  # by outcome: done, look_again, retry, give_up, error
    durations: list[int] = field(default_factory=lambda: [0] * (len(DURATION_BOUNDS_S) + 1))
    duration_sum_s: float = 0.0
    waiting: int = 0
    delayed: int = 0
    running: int = 0
    failing: int = 0  # keys whose last run failed

    def ran(self, outcome: str, duration_s: float) -> None:
        self.runs[outcome] += 1
        self.durations[bisect_left(DURATION_BOUNDS_S, duration_s)] += 1
        self.duration_sum_s += duration_s
