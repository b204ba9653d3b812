"""How much a journal takes: counts in all and by tenant, and when a client that was refused may come again."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from serving.broker.items import ROW_BYTES, Item
from serving.broker.settings import BrokerSettings
from serving.errors import ResourceExhausted

_UNWRITTEN_BYTES: Final = 256 << 20
_SHORTEST_S: Final = 0.1
_LONGEST_S: Final = 60.0
_UNKNOWN_S: Final = 5.0
_CALLBACKS_S: Final = 30.0
_ROOM: Final = 0.01  # of a limit, that should be free again
_SMOOTHING_S: Final = 10.0


class BrokerFull(ResourceExhausted):
    """`retry_after_ms` says when it should be tried again."""

    def __init__(self, message: str, wait_s: float) -> None:
        super().__init__(message)
        self.retry_after_ms = math.ceil(wait_s * 1000)
        self.retry_after_s = max(1, math.ceil(wait_s))


@dataclass(slots=True)
class _Use:
    items: int = 0  # that wait or run
    bytes: int = 0  # of their requests
    ended_bytes: int = 0  # of what has ended and is kept; counted only where a tenant has a bound of its own


class Limits:
    """Counts requests that wait or run, and by tenant what is kept of the others.

    `random` gives numbers from 0 to 1, so that not all come back at once.
    """

    def __init__(self, settings: BrokerSettings, random: Callable[[], float]) -> None:
        self._settings = settings
        self._random = random
        self._tenants: defaultdict[str, _Use] = defaultdict(_Use)
        self.items = 0
        self.ended_per_s = 0.0
        self._ended = 0

    def check(self, item: Item, kept_bytes: int, unwritten_bytes: int) -> None:
        """Raises `BrokerFull`. `kept_bytes`: of the journal, what is on its way included."""
        settings, use = self._settings, self._tenants.get(item.tenant, _Use())
        if self.items >= settings.max_items:
            raise self._full(f"{settings.max_items:,} items wait or run", settings.max_items)
        if kept_bytes + item.size_bytes + ROW_BYTES > settings.max_bytes:
            raise self._full(f"requests and results have {kept_bytes:,} bytes of {settings.max_bytes:,}", self.items)
        if use.items >= settings.max_tenant_items:
            raise self._full(f"{use.items:,} items of tenant {item.tenant!r} wait or run", use.items)
        if use.bytes + use.ended_bytes + item.size_bytes > settings.max_tenant_bytes:
            raise self._tenant_full(item.tenant, use)
        if unwritten_bytes + item.size_bytes > max(_UNWRITTEN_BYTES, settings.max_request_bytes):
            raise BrokerFull("more requests come than the disk of the broker takes; send them more slowly", 1.0)

    def check_callbacks(self, due: int, tenant: str, of_tenant: int) -> None:
        """So many are due in the journal, and of them of the tenant. Raises `BrokerFull`."""
        callbacks = self._settings.callbacks
        if due >= callbacks.max_due:
            what = f"{due:,} callbacks"
        elif of_tenant >= callbacks.max_tenant_due:
            what = f"{of_tenant:,} callbacks of tenant {tenant!r}"
        else:
            return
        text = f"{what} are due, their receivers do not take them; send it later, or without a callback"
        raise BrokerFull(text, _CALLBACKS_S * (0.75 + 0.5 * self._random()))

    def add(self, tenant: str, size_bytes: int) -> None:
        self.items += 1
        use = self._tenants[tenant]
        use.items += 1
        use.bytes += size_bytes

    def end(self, item: Item) -> None:
        """It has ended, and is kept."""
        self._ended += 1
        self.remove(item)
        self.keep(item)

    def remove(self, item: Item) -> None:
        """It neither waits nor runs."""
        self.items -= 1
        use = self._tenants[item.tenant]
        use.items -= 1
        use.bytes -= item.size_bytes
        self._drop_unused(item.tenant)

    def keep(self, item: Item) -> None:
        """It has ended, and stays until its time is over."""
        if self._settings.tenants_apart:
            self._tenants[item.tenant].ended_bytes += ROW_BYTES + item.body_bytes

    def recover_ended(self, kept: Iterable[tuple[str, int]]) -> None:
        """What has ended and is kept: tenants, and bytes of each."""
        for tenant, size in kept:
            self._tenants[tenant].ended_bytes += size

    def forget(self, item: Item) -> None:
        """It was kept, and is not any more."""
        if self._settings.tenants_apart:
            self._tenants[item.tenant].ended_bytes -= ROW_BYTES + item.body_bytes
            self._drop_unused(item.tenant)

    def _drop_unused(self, tenant: str) -> None:
        use = self._tenants[tenant]
        if not use.items and not use.ended_bytes:
            del self._tenants[tenant]

    def measure(self, seconds: float) -> None:
        """Since the last time: how fast items end."""
        if seconds > 0:
            share = 1 - math.exp(-seconds / _SMOOTHING_S)
            self.ended_per_s += share * (self._ended / seconds - self.ended_per_s)
            self._ended = 0

    def _tenant_full(self, tenant: str, use: _Use) -> BrokerFull:
        """What runs makes room when it ends, what has ended when its time is over."""
        if use.bytes >= use.ended_bytes:
            return self._full(f"requests of tenant {tenant!r} have {use.bytes:,} bytes", use.items)
        wait_s = _LONGEST_S * (0.75 + 0.5 * self._random())
        text = (
            f"the broker is full: {use.ended_bytes:,} bytes of tenant {tenant!r} have ended and are kept, of "
            f"{self._settings.max_tenant_bytes:,}; send it again when the time of some of them (`result_ttl`) is over, "
            "and ask for a shorter one"
        )
        return BrokerFull(text, wait_s)

    def _full(self, what: str, of: int) -> BrokerFull:
        wait_s = of * _ROOM / self.ended_per_s if self.ended_per_s > 0 else _UNKNOWN_S
        wait_s = min(max(wait_s, _SHORTEST_S), _LONGEST_S) * (0.75 + 0.5 * self._random())
        return BrokerFull(f"the broker is full: {what}; send it again in {wait_s:.1f} s", wait_s)
