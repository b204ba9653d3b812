"""Who is let in: bounds of what runs and waits in one replica, counted up in one place and down in one `finally`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from serving.errors import ResourceExhausted
from serving.llm.waiting import Pace
from serving.openai.service_tier import ServiceTier

DEFAULT_REQUESTS: Final = 256
DEFAULT_WAITING_TOKENS: Final = 262_144
DEFAULT_WAIT_S: Final = 60.0
DEFAULT_BODY_BYTES: Final = 8 << 20

# Of the bounds on what waits. What can wait longer is sent away first, and what is urgent finds room where all is full.
_SHARES: Final[Mapping[ServiceTier, float]] = {
    ServiceTier.PRIORITY: 1.25,
    ServiceTier.DEFAULT: 1.0,
    ServiceTier.FLEX: 0.5,
    ServiceTier.BATCH: 0.25,  # of a room of its own
}
_LONGEST_RETRY_S: Final = 60  # who knows what is in a minute; a standstill would else send everybody away for hours
_BATCH_PLACES: Final = 0.5  # of as many as others have, beside theirs


class Full(ResourceExhausted):
    """A replica takes no more. `retry_after_s`: when it should, in a minute at most."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(f"this replica is full: {message}; send the request to another replica, or later")
        self.retry_after_s = max(1, math.ceil(min(retry_after_s, _LONGEST_RETRY_S)))


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one replica. `max_requests` counts choices: each is a generation of the engine.

    `max_waiting_tokens` are those of prompts that no token was answered to yet. A request that would wait longer than
    `max_wait_s` for its first token, by the pace of those before it, is refused at once. `write_timeout_s`: a client
    that takes nothing of its answer for so long is given up.
    """

    max_requests: int = DEFAULT_REQUESTS
    max_waiting_tokens: int = DEFAULT_WAITING_TOKENS
    max_wait_s: float = DEFAULT_WAIT_S
    max_body_bytes: int = DEFAULT_BODY_BYTES
    write_timeout_s: float = 60.0


class Place:
    """Of one HTTP request, from its admission to the end of its answer."""

    def __init__(self, admission: Admission, choices: int, tier: ServiceTier) -> None:
        self._admission = admission
        self.choices = choices
        self.tier = tier
        self.waiting_tokens = 0

    @property
    def yields(self) -> bool:
        """To all others, in the engine's steps too."""
        return self.tier is ServiceTier.BATCH

    def priority(self, asked: int | None) -> int:
        """For the engine: the request's own, or what its service tier is worth."""
        return self.tier.rank if asked is None else asked

    def wait_for(self, tokens: int) -> None:
        """Counts the prompt as waiting. Raises `Full` when too many wait already, or for too long.

        Where nothing waits, any prompt may: else one longer than the limit could never be answered.
        """
        self._admission.check_room(tokens, self.tier)
        self.waiting_tokens += tokens
        self._admission.add_waiting(tokens, self.tier)

    def begun(self, tokens: int | None = None) -> None:
        """A first token is there: so many tokens of prompts wait no longer, by default all. May be repeated."""
        done = self.waiting_tokens if tokens is None else min(tokens, self.waiting_tokens)
        self._admission.end_waiting(done, self.tier, computed=True)
        self.waiting_tokens -= done

    def leave(self) -> None:
        """Whatever became of it."""
        self._admission.end_waiting(self.waiting_tokens, self.tier, computed=False)
        self.waiting_tokens = 0


class Admission:
    """Belongs to one event loop.

    What jobs of batch inference have here is bounded by itself, and takes nothing of the bounds of others.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.requests = 0
        self._batch_requests = 0  # of them
        self._waiting = dict.fromkeys(ServiceTier, 0)
        self._clock = clock
        self._paces = {batch: Pace(clock()) for batch in (False, True)}  # others do not wait for batches

    @property
    def waiting_tokens(self) -> int:
        return sum(self._waiting.values())

    @contextmanager
    def enter(self, choices: int, tier: ServiceTier = ServiceTier.DEFAULT) -> Iterator[Place]:
        """A place for that many generations. Raises `Full` when there are too few.

        As with tokens: a request of more choices than there are places is let in where nothing else runs.
        """
        batch = tier is ServiceTier.BATCH
        self._check_places(choices, batch=batch)
        self.check_room(1, tier)  # before its prompt is turned into tokens, which takes time of its own
        place = Place(self, choices, tier)
        self.requests += choices
        self._batch_requests += choices if batch else 0
        try:
            yield place
        finally:
            self.requests -= choices
            self._batch_requests -= choices if batch else 0
            place.leave()

    def _check_places(self, choices: int, *, batch: bool) -> None:
        limit, running = self.limits.max_requests, self.requests - self._batch_requests
        if batch:
            limit, running = max(1, int(limit * _BATCH_PLACES)), self._batch_requests
        if running and running + choices > limit:
            whose = " for the class batch" if batch else ""
            raise Full(
                f"{running} generations run or wait, {choices} more would be above {limit} (max_requests{whose})"
            )

    def check_room(self, tokens: int, tier: ServiceTier) -> None:
        """Raises `Full` for a prompt that should not wait here too."""
        of_batch, share = self._waiting[ServiceTier.BATCH], _SHARES[tier]
        waiting = of_batch if tier is ServiceTier.BATCH else self.waiting_tokens - of_batch
        if not waiting:
            return
        limit = int(self.limits.max_waiting_tokens * share)
        if waiting + tokens > limit:
            raise Full(
                f"{waiting} tokens of prompts wait, with {tokens} more above {limit} (max_waiting_tokens, for "
                f"`service_tier` {tier.value})"
            )
        most_s = self.limits.max_wait_s * share
        wait_s = self._pace(tier).wait_s(self._ahead(tier), self._clock())
        if wait_s is not None and wait_s > most_s:
            raise Full(
                f"the first token would come in about {wait_s:.0f} s, which is above {most_s:g} s (max_wait_s, for "
                f"`service_tier` {tier.value})",
                wait_s - most_s,
            )

    def _ahead(self, tier: ServiceTier) -> int:
        """Tokens that begin before those of this tier. What others keep a batch waiting for is in its pace."""
        if tier is ServiceTier.BATCH:
            return self._waiting[tier]
        return sum(self._waiting[other] for other in ServiceTier if other.rank <= tier.rank)

    def _pace(self, tier: ServiceTier) -> Pace:
        return self._paces[tier is ServiceTier.BATCH]

    def add_waiting(self, tokens: int, tier: ServiceTier) -> None:
        self._waiting[tier] += tokens
        self._pace(tier).waits(tokens, self._clock())

    def end_waiting(self, tokens: int, tier: ServiceTier, *, computed: bool) -> None:
        if tokens:
            self._waiting[tier] -= tokens
            pace = self._pace(tier)
            (pace.begins if computed else pace.leaves)(tokens, self._clock())
