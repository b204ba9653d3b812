"""An item as the journal keeps it. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

ROW_BYTES: Final = 300  # of the disk, for an item besides its bodies
CALLBACK_BYTES: Final = 300  # the same, for a callback besides its URL
NEVER: Final = math.inf


class State(IntEnum):
    """By the numbers of proto/broker.proto."""

    QUEUED = 1
    RUNNING = 2
    SUCCEEDED = 3
    FAILED = 4
    DEAD = 5
    CANCELLED = 6
    EXPIRED = 7

    @property
    def live(self) -> bool:
        return self <= State.RUNNING

    @property
    def answered(self) -> bool:
        """It has a result; its request is no longer kept."""
        return self in (State.SUCCEEDED, State.FAILED)


@dataclass(frozen=True, slots=True)
class Callback:
    """What is POSTed when the item ends in one of `states`. `receiver` is the URL's `host:port`."""

    url: str
    receiver: str
    secret: str  # its name; empty: not signed
    states: frozenset[State]

    @property
    def kept_bytes(self) -> int:
        return CALLBACK_BYTES + len(self.url)


@dataclass(slots=True)
class Item:
    """Times are unix seconds, 0 where there is none yet. `attempt` fences and only grows; `attempts` counts those since
    it was submitted or retried."""

    number: int
    deployment: str
    tenant: str
    key: str  # of idempotency; empty: none
    priority: int  # 1 to 3
    submitted: float
    deadline: float  # NEVER: none
    expected_s: float  # as its client said; 0: unknown
    ttl_s: float  # of its result; 0: the broker's
    size_bytes: int  # of the request
    labels: Mapping[str, str] = field(default_factory=dict)
    state: State = State.QUEUED
    attempt: int = 0
    attempts: int = 0
    replica: str = ""
    process: str = ""  # of the replica
    started: float = 0.0
    ended: float = 0.0
    reason: str = ""
    expires: float = NEVER  # when it is forgotten
    result_bytes: int = 0
    callback: Callback | None = None
    new_key: bool = False  # no journal can know the key yet; not kept

    @property
    def looked_for(self) -> bool:
        """Its key may be known."""
        return bool(self.key) and not self.new_key

    @property
    def calls_back(self) -> bool:
        """It has ended in a way that its callback tells of."""
        return self.callback is not None and self.state in self.callback.states

    @property
    def kept_bytes(self) -> int:
        """What it holds of the disk."""
        return ROW_BYTES + self.body_bytes + (self.callback.kept_bytes if self.callback is not None else 0)

    @property
    def body_bytes(self) -> int:
        """Of its result where it has one, else of its request."""
        return self.result_bytes if self.state.answered else self.size_bytes
