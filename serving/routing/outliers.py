"""Which endpoints are taken out for a while because they fail. Pure; time is an argument.

One endpoint's life::

    active ──failures──▶ ejected ──time is over──▶ probing ──probe succeeds──▶ active
                            ▲                         │
                            └──────probe fails────────┘        each ejection in a row lasts longer
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class OutlierConfig:
    """When an endpoint is ejected, for how long, and how many at once.

    `consecutive_failures` in a row, or a share of `failure_rate` of at least `rate_requests` requests in `window_s`.
    An ejection lasts `base_s`, doubled for each one before, up to `max_s`; after `forgive_s` without failures the count
    starts anew. Never more than `max_share` of the endpoints are ejected, but one of several always may be.
    """

    consecutive_failures: int = 5
    failure_rate: float = 0.5
    rate_requests: int = 20
    window_s: float = 10.0
    base_s: float = 1.0
    max_s: float = 60.0
    forgive_s: float = 60.0
    max_share: float = 0.5


class _State(Enum):
    ACTIVE = 1  # gets work
    EJECTED = 2  # gets none until its time is over
    PROBING = 3  # gets none until a probe has answered


@dataclass(slots=True)
class _Record:
    state: _State = _State.ACTIVE
    in_a_row: int = 0
    window: tuple[int, int] = (0, 0)  # requests and failures of this half window
    window_before: tuple[int, int] = (0, 0)
    window_start: float = 0.0
    until: float = 0.0  # of the ejection
    ejections: int = 0
    last_failure: float = field(default=-1e18)


class OutlierDetector(Generic[K]):
    """Keeps one record for each endpoint that `retain` named."""

    def __init__(self, config: OutlierConfig | None = None) -> None:
        self._config = config or OutlierConfig()
        self._records: dict[K, _Record] = {}
        self._out = 0

    def retain(self, keys: Iterable[K]) -> None:
        """The endpoints that exist now: new ones start active, others are forgotten."""
        wanted = dict.fromkeys(keys)  # a set that keeps the order, in which probes are due, too
        for key in [key for key in self._records if key not in wanted]:
            self._out -= self._records.pop(key).state is not _State.ACTIVE
        for key in wanted:
            self._records.setdefault(key, _Record())

    def succeeded(self, key: K, now: float) -> None:
        """A request was answered, be it with an error of the request itself."""
        record = self._records.get(key)
        if record is not None:
            record.in_a_row = 0
            self._count(record, 0, now)

    def failed(self, key: K, now: float) -> bool:
        """A request failed through the endpoint's fault. True when that ejected it."""
        record = self._records.get(key)
        if record is None:
            return False
        self._forgive(record, now)
        record.last_failure = now
        record.in_a_row += 1
        self._count(record, 1, now)
        config = self._config
        requests = record.window[0] + record.window_before[0]
        failures = record.window[1] + record.window_before[1]
        bad_rate = requests >= config.rate_requests and failures >= config.failure_rate * requests
        if record.in_a_row >= config.consecutive_failures or bad_rate:
            return self._eject(record, now)
        return False

    def lost(self, key: K, now: float) -> bool:
        """The connection broke or was refused, which needs no second proof. True when that ejected it."""
        record = self._records.get(key)
        if record is None:
            return False
        self._forgive(record, now)
        record.last_failure = now
        return self._eject(record, now)

    def is_active(self, key: K) -> bool:
        """True when it may get work; endpoints that nobody named are active."""
        record = self._records.get(key)
        return record is None or record.state is _State.ACTIVE

    @property
    def ejected(self) -> int:
        """How many get no work now."""
        return self._out

    def next_probe_at(self) -> float | None:
        """When the first ejection is over; None when there is none."""
        return min((record.until for record in self._records.values() if record.state is _State.EJECTED), default=None)

    def take_due_probes(self, now: float) -> list[K]:
        """Endpoints whose ejection is over: each must be probed once, and `probed` be told."""
        due = [key for key, record in self._records.items() if record.state is _State.EJECTED and record.until <= now]
        for key in due:
            self._records[key].state = _State.PROBING
        return due

    def probed(self, key: K, ok: bool, now: float) -> None:
        """The answer of a probe: back to work, or out again for longer."""
        record = self._records.get(key)
        if record is None or record.state is not _State.PROBING:
            return
        if ok:
            self._out -= 1
            record.state = _State.ACTIVE
            record.in_a_row = 0
            record.window = record.window_before = (0, 0)
        else:
            record.last_failure = now
            self._start_ejection(record, now)

    def _eject(self, record: _Record, now: float) -> bool:
        if record.state is not _State.ACTIVE or not self._may_eject():
            return False
        self._out += 1
        self._start_ejection(record, now)
        return True

    def _start_ejection(self, record: _Record, now: float) -> None:
        record.state = _State.EJECTED
        record.until = now + min(self._config.base_s * 2.0 ** min(record.ejections, 30), self._config.max_s)
        record.ejections += 1

    def _may_eject(self) -> bool:
        total = len(self._records)
        return total > 1 and self._out + 1 <= max(1, int(total * self._config.max_share))

    def _forgive(self, record: _Record, now: float) -> None:
        if now - record.last_failure > self._config.forgive_s:
            record.ejections = 0

    def _count(self, record: _Record, failures: int, now: float) -> None:
        half = self._config.window_s / 2
        age = now - record.window_start
        if age >= half:
            record.window_before = record.window if age < 2 * half else (0, 0)
            record.window = (0, 0)
            record.window_start = now
        record.window = (record.window[0] + 1, record.window[1] + failures)
