"""Settings and counters of the inference client."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from serving.discovery.client_health import HealthConfig
from serving.routing import OutlierConfig, RetryBudgetConfig


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """How a client retries and ejects.

    `max_attempts` bounds the attempts of one request (the deadline and the budget do, too). Pauses between attempts
    grow from `backoff_s` to `backoff_max_s`, with jitter. `unknown_model_wait_s`: how long a model that no endpoint
    offers is waited for, since discovery may be just about to name it.
    """

    outliers: OutlierConfig = field(default_factory=OutlierConfig)
    budget: RetryBudgetConfig = field(default_factory=RetryBudgetConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    max_attempts: int = 100
    backoff_s: float = 0.025
    backoff_max_s: float = 1.0
    unknown_model_wait_s: float = 1.0


@dataclass(slots=True)
class ClientStats:
    """Counters since the start, except `in_flight`."""

    requests: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    attempts: int = 0
    retries: int = 0
    budget_refused: int = 0
    waited: int = 0  # requests that had to wait for an endpoint
    ejections: int = 0
    restored: int = 0
    in_flight: int = 0
    failed_by_code: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, int]:
        """The plain counters by name, for a metrics exporter."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "failed_by_code"}
