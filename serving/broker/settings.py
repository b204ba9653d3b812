"""What a broker is told. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final, Literal

from serving.broker.callbacks.settings import CallbackSettings
from serving.broker.items import NEVER, Item, State
from serving.broker.queue import QueueSettings
from serving.broker.redis_log.settings import MAX_BODY_BYTES, RedisSettings
from serving.errors import InvalidArgument

USUAL_TTL_S: Final = 3600.0
LONGEST_TTL_S: Final = 366 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """Raises `InvalidArgument` for what cannot be.

    `folder`: of the journals, on a local disk, shared by the brokers of one application on a node.
    `deployments`: what may be asked for. `name`: under which it remembers whether it is drained; empty: it does not.
    `max_items` and `max_tenant_items` bound what waits and runs, `max_bytes` and `max_tenant_bytes` all that is kept,
    also requests and results of what has ended. No request may ask for more than `max_result_ttl_s`. `sync`: `full`
    waits for the disk before anything is confirmed; `normal` survives the end of the process, and may lose the last
    moment with the machine.
    `redis` keeps the journals instead of the folder, where their indexes and the drained mark lie then.
    """

    folder: Path
    deployments: tuple[str, ...]
    name: str = ""
    lease_s: float = 15.0
    max_attempts: int = 3
    result_ttl_s: float = USUAL_TTL_S
    max_result_ttl_s: float = LONGEST_TTL_S
    dead_ttl_s: float = 7 * 24 * 3600.0
    max_items: int = 1_000_000
    max_bytes: int = 4 << 30
    max_tenant_items: int = 1_000_000
    max_tenant_bytes: int = 4 << 30
    max_request_bytes: int = 64 << 20
    max_result_bytes: int = 64 << 20
    sync: Literal["full", "normal"] = "full"
    queue: QueueSettings = field(default_factory=QueueSettings)
    callbacks: CallbackSettings = field(default_factory=CallbackSettings)
    application: str = ""  # <namespace>/<name>, as callbacks name it
    redis: RedisSettings | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, int | float) and not value > 0:
                raise InvalidArgument(f"broker: {each.name} must be above 0, found {value}")
        if self.sync not in ("full", "normal"):
            raise InvalidArgument(f"broker: sync must be `full` or `normal`, found {self.sync!r}")
        if self.result_ttl_s > self.max_result_ttl_s:
            raise InvalidArgument(
                f"broker: result_ttl of {self.result_ttl_s:g} s is longer than max_result_ttl, "
                f"{self.max_result_ttl_s:g} s"
            )
        if max(self.max_request_bytes, self.max_result_bytes) > 1 << 30:
            raise InvalidArgument("broker: one request or result can have at most 1 GiB")
        if self.redis is not None and max(self.max_request_bytes, self.max_result_bytes) > MAX_BODY_BYTES:
            raise InvalidArgument("broker: in Redis one request or result can have at most 256 MiB")

    @property
    def tenants_apart(self) -> bool:
        """A tenant's own bound is met before that of all: what is kept must be counted by tenant."""
        return self.max_tenant_bytes < self.max_bytes

    def kept_until(self, item: Item) -> float:
        """When an item that has just ended is forgotten: not while its callback is due."""
        return NEVER if item.calls_back else item.ended + self.ttl_s(item)

    def ttl_s(self, item: Item) -> float:
        """How long it is kept after its end, or after its callback's."""
        ttl_s = item.ttl_s or self.result_ttl_s
        return max(ttl_s, self.dead_ttl_s) if item.state is State.DEAD else ttl_s
