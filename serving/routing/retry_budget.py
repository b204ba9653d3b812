"""How many retries are allowed: a share of the requests, and a few per second. Pure; time is an argument."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryBudgetConfig:
    """Each request earns `share` of a retry and each second `min_per_s`; up to `capacity` are saved up.

    The capacity is there at the start: it must carry the requests that are in flight on one endpoint when it dies.
    """

    share: float = 0.2
    min_per_s: float = 10.0
    capacity: float = 256.0


class RetryBudget:
    """A token bucket. Between any two moments at most capacity + share × requests + min_per_s × seconds are spent."""

    __slots__ = ("_config", "_last", "_tokens")

    def __init__(self, config: RetryBudgetConfig | None = None) -> None:
        self._config = config or RetryBudgetConfig()
        self._tokens = self._config.capacity
        self._last: float | None = None

    def request(self) -> None:
        """A request (not a retry) was started."""
        self._tokens = min(self._tokens + self._config.share, self._config.capacity)

    def try_spend(self, now: float) -> bool:
        """Takes one retry; False when the budget is used up."""
        self._refill(now)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def left(self, now: float) -> float:
        """Retries that could be spent now."""
        self._refill(now)
        return self._tokens

    def _refill(self, now: float) -> None:
        if self._last is not None and now > self._last:
            earned = (now - self._last) * self._config.min_per_s
            self._tokens = min(self._tokens + earned, self._config.capacity)
        self._last = now if self._last is None else max(now, self._last)
