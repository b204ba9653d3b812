"""What a sender is told, and what it counts."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from enum import Enum

from serving.batch.sending.window import WindowConfig
from serving.errors import InvalidArgument
from serving.routing import RetryBudgetConfig


@dataclass(frozen=True, slots=True)
class SenderConfig:
    """`max_attempts` of a row that fails by an endpoint's fault, as far as the budget of all rows allows. An endpoint
    whose answer has more than `max_answer_bytes`, or is not whole `timeout_s` after its head, has failed. One that has
    said nothing for `timeout_s` may have paused the row: it is sent again, at another one where there is any, and that
    counts as an attempt only when the row has met silence for longer than `patience_s` and `timeout_s` together.

    `max_waiting` rows wait in the sender; who sends more waits. Of each `tranche` that came together the longest goes
    first: a small one brings the answers more in the order of the rows. When no endpoint of a model has answered
    anything for `patience_s`, because there is none or all are full, the rows that wait for it fail: also those of a
    model that was there and has gone. One that nobody has offered yet is waited for `unknown_model_s`. `memo_bytes` of
    answers are kept for rows that are the same.
    """

    window: WindowConfig = field(default_factory=WindowConfig)
    budget: RetryBudgetConfig = field(default_factory=RetryBudgetConfig)
    max_attempts: int = 4
    max_waiting: int = 4096
    tranche: int = 4096
    timeout_s: float = 600.0
    max_answer_bytes: int = 64 << 20
    patience_s: float = 600.0
    unknown_model_s: float = 30.0
    memo_bytes: int = 32 << 20

    def __post_init__(self) -> None:
        if min(self.max_attempts, self.max_waiting, self.tranche, self.max_answer_bytes) < 1:
            raise InvalidArgument(f"{self}: attempts, rows and bytes of an answer must be above 0")
        if not min(self.timeout_s, self.patience_s) > 0 or not min(self.unknown_model_s, self.memo_bytes) >= 0:
            raise InvalidArgument(f"{self}: seconds must be above 0, those of unknown models and memo_bytes not below")


@dataclass(slots=True)
class SenderStats:
    """Since its start. The seconds say what held it up:

    `idle_s`: endpoints had room, and no row was there. `window_s`: rows waited, and every endpoint had as many as its
    window allows. `endpoint_s`: rows waited, and no endpoint took any. `held_s`: who sends waited, as too many rows do
    (of all who send together).
    """

    rows: int = 0
    answers: int = 0
    faults: int = 0
    same: int = 0  # rows whose answer was another one's
    attempts: int = 0
    refusals: int = 0
    retries: int = 0
    idle_s: float = 0.0
    window_s: float = 0.0
    endpoint_s: float = 0.0
    held_s: float = 0.0

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


class Held(Enum):
    """What holds a sender up, by the field of its seconds."""

    IDLE = "idle_s"
    WINDOW = "window_s"
    ENDPOINT = "endpoint_s"
    BUSY = ""  # all rows are on their way, and fill the windows


class StateClock:
    """Adds up how long each lasted."""

    def __init__(self, stats: SenderStats) -> None:
        self._stats = stats
        self._state = Held.IDLE
        self._since = time.monotonic()

    def enter(self, state: Held) -> None:
        now = time.monotonic()
        if self._state.value:
            setattr(self._stats, self._state.value, getattr(self._stats, self._state.value) + now - self._since)
        self._state, self._since = state, now

    def restart(self) -> None:
        self._since = time.monotonic()
