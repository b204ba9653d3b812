"""Settings and counters of the inference client."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Final

from serving.discovery.client_health import HealthConfig
from serving.errors import InvalidArgument, NotSupported
from serving.routing import OutlierConfig, RetryBudgetConfig, RoutingPolicy
from serving.routing.policy import POWER_OF_TWO
from serving.types import ROLE_DIRECT, ROLE_PROXY

WAYS: Final = (ROLE_DIRECT, ROLE_PROXY)


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """How a client chooses, retries and ejects; `from_policy` makes it of what proxies read, too.

    `via` is `"direct"`, straight to replicas, or `"proxy"`, through the application's proxies.

    `choice`, `hash_key` and `prefer_labels` are those of `RoutingPolicy`. `max_attempts` bounds the attempts of one
    request (the deadline and the budget do, too). Pauses between attempts grow from `backoff_s` to `backoff_max_s`,
    with jitter. `unknown_model_wait_s`: how long a model that no endpoint offers is waited for, since discovery may be
    just about to name it.
    """

    outliers: OutlierConfig = field(default_factory=OutlierConfig)
    budget: RetryBudgetConfig = field(default_factory=RetryBudgetConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    max_attempts: int = 100
    backoff_s: float = 0.025
    backoff_max_s: float = 1.0
    unknown_model_wait_s: float = 1.0
    choice: str = POWER_OF_TWO
    hash_key: str = ""
    prefer_labels: tuple[tuple[str, str], ...] = ()
    via: str = ROLE_DIRECT

    def __post_init__(self) -> None:
        if self.via not in WAYS:
            raise InvalidArgument(f"via: {self.via!r} is not known (allowed: {', '.join(WAYS)})")

    @classmethod
    def from_policy(cls, policy: RoutingPolicy) -> ClientConfig:
        """Raises `NotSupported` for what only proxies do: limits of requests in flight, and hedging."""
        for name, unset in (("max_in_flight_per_endpoint", 0), ("hedge_after_s", None)):
            if getattr(policy, name) != unset:
                raise NotSupported(f"{name}: the Python client does not do this, a proxy does; leave it out here")
        return cls(
            outliers=policy.outliers,
            budget=policy.budget,
            health=HealthConfig(
                suspect_after_s=policy.suspect_after_s, probe_timeout_s=policy.probe_timeout_s, probes=policy.probes
            ),
            max_attempts=policy.max_attempts,
            backoff_s=policy.backoff_s,
            backoff_max_s=policy.backoff_max_s,
            unknown_model_wait_s=policy.unknown_model_wait_s,
            choice=policy.choice,
            hash_key=policy.hash_key,
            prefer_labels=policy.prefer_labels,
        )


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
    spared: int = 0  # attempts at endpoints of another side of a traffic split, because none of its own worked
    shadows: int = 0  # copies that were sent
    shadows_failed: int = 0
    shadows_dropped: int = 0  # copies that were not sent: too many at once, or nobody there
    in_flight: int = 0
    failed_by_code: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, int]:
        """The plain counters by name, for a metrics exporter."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "failed_by_code"}
