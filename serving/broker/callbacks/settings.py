"""Where a broker may call back, and how often it tries. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeAlias

from serving.control import Backoff
from serving.errors import InvalidArgument

Network: TypeAlias = "ipaddress.IPv4Network | ipaddress.IPv6Network"
_GROWTH = 3.0
_JITTER = 0.2


@dataclass(frozen=True, slots=True)
class CallbackSettings:
    """Raises `InvalidArgument` for what cannot be.

    `hosts` may be called, names or `*.` and a domain; empty: all. Of these only the ones with public addresses, and
    with addresses of `networks`. `secrets`: the folder with a file for each. A callback is given up after
    `max_attempts` tries, or `max_age_s` after its item's end. `concurrency` calls run at once, `per_host` of them to
    one host and port, `per_tenant` of them for one tenant. A result of more than `max_inline_bytes` is not sent, but to
    be fetched. While `max_due` of a journal are due, it takes no request that has one, and none of a tenant while
    `max_tenant_due` of these are its own.
    """

    disabled: bool = False
    hosts: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    allow_http: bool = False
    secrets: Path | None = None
    timeout_s: float = 15.0
    max_attempts: int = 20
    max_age_s: float = 3 * 24 * 3600.0
    first_delay_s: float = 5.0
    max_delay_s: float = 6 * 3600.0
    concurrency: int = 64
    per_host: int = 8
    max_inline_bytes: int = 16 << 10
    max_due: int = 100_000
    per_tenant: int = 64
    max_tenant_due: int = 100_000

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, int | float) and not isinstance(value, bool) and not value > 0:
                raise InvalidArgument(f"broker.callbacks: {each.name} must be above 0, found {value}")
        read_networks(self.networks)

    @property
    def backoff(self) -> Backoff:
        """Between tries."""
        first_s = min(self.first_delay_s, self.max_delay_s)
        return Backoff(first_s=first_s, limit_s=self.max_delay_s, factor=_GROWTH, jitter=_JITTER)


def read_networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    """Raises `InvalidArgument`."""
    try:
        return tuple(ipaddress.ip_network(text) for text in texts)
    except ValueError as error:
        raise InvalidArgument(f"broker.callbacks: networks: {error}") from error
