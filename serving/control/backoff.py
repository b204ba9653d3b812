"""How long to wait after failures. Pure: the randomness is an argument."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from serving.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Backoff:
    """Grows from `first_s` by `factor` up to `limit_s`; `jitter` 0.2 spreads the result by 20 % to either side."""

    first_s: float = 0.2
    limit_s: float = 60.0
    factor: float = 2.0
    jitter: float = 0.2

    def __post_init__(self) -> None:
        if not (0 < self.first_s <= self.limit_s and self.factor >= 1 and 0 <= self.jitter < 1):
            raise InvalidArgument(f"a backoff needs 0 < first_s <= limit_s, factor >= 1 and 0 <= jitter < 1: {self}")

    def delay_s(self, failures: int, uniform: Callable[[], float] = random.random) -> float:
        """Seconds to wait after `failures` failures in a row (1, 2, ...). `uniform` gives numbers from 0 to 1."""
        plain = self.first_s
        for _ in range(max(0, failures - 1)):
            plain *= self.factor
            if plain >= self.limit_s:
                plain = self.limit_s
                break
        return plain * (1 + self.jitter * (2 * uniform() - 1))
