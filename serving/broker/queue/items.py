"""What waits, and by which rules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from serving.errors import InvalidArgument

# The classes of `Priority` in proto/broker.proto.
LOW: Final = 1
DEFAULT: Final = 2
HIGH: Final = 3


@dataclass(slots=True)
class Waiting:
    """An item that waits. It belongs to the queue and must not be changed until it is out; a changed item is another
    object."""

    number: int  # unique in its queue
    tenant: str
    priority: int  # LOW, DEFAULT or HIGH
    deadline: float  # unix seconds; math.inf: none
    submitted: float  # unix seconds
    expected_s: float  # predicted time of its execution
    size_bytes: int

    def __lt__(self, other: Waiting) -> bool:
        """The one that goes first among those of one tenant and class."""
        if self.deadline != other.deadline:
            return self.deadline < other.deadline
        if self.submitted != other.submitted:
            return self.submitted < other.submitted
        return self.number < other.number

    def check(self) -> None:
        """Raises `InvalidArgument`."""
        if self.priority not in (LOW, DEFAULT, HIGH):
            raise InvalidArgument(f"item {self.number}: priority {self.priority} is none of 1 (LOW), 2 and 3 (HIGH)")
        if math.isnan(self.deadline) or not math.isfinite(self.submitted):
            raise InvalidArgument(
                f"item {self.number}: deadline {self.deadline} or submitted {self.submitted} is no time"
            )
        if not (math.isfinite(self.expected_s) and self.expected_s >= 0):
            raise InvalidArgument(f"item {self.number}: expected_s is {self.expected_s}, not 0 or more seconds")
        if self.size_bytes < 0:
            raise InvalidArgument(f"item {self.number}: size_bytes is {self.size_bytes}, less than 0")


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """The rules of a queue. Raises `InvalidArgument`.

    An item rises by one class for each `ageing_s` that it waited. One without a deadline counts among those of its
    tenant and class as if it were due `patience_s` after its submission, so that a stream of deadlines does not pass it
    for ever. Items are long that are predicted to take more than `long_factor` times the running median. While both
    wait, at least `short_share` of the places are for short ones and `long_share` for long ones (rounded down, but one
    place where there are two). A tenant's weight is 1 unless `tenant_weights` says otherwise.
    """

    ageing_s: float = 60.0
    patience_s: float = 600.0
    long_factor: float = 4.0
    short_share: float = 0.5
    long_share: float = 0.25
    tenant_weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("ageing_s", "patience_s"):
            if not getattr(self, name) > 0:
                raise InvalidArgument(f"{name} is {getattr(self, name)}, not more than 0 seconds")
        if not self.long_factor > 1:
            raise InvalidArgument(f"long_factor is {self.long_factor}, not more than 1")
        if not (self.short_share >= 0 and self.long_share >= 0 and self.short_share + self.long_share <= 1):
            raise InvalidArgument(
                f"short_share {self.short_share} and long_share {self.long_share}: below 0, or above 1 together"
            )
        for tenant, weight in self.tenant_weights.items():
            if not 0 < weight < math.inf:
                raise InvalidArgument(f"tenant_weights[{tenant!r}] is {weight}, not more than 0")
