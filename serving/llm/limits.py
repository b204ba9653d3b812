"""Who is let in: bounds of what runs and waits in one replica, counted up in one place and down in one `finally`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from serving.errors import ResourceExhausted

DEFAULT_REQUESTS: Final = 256
DEFAULT_WAITING_TOKENS: Final = 262_144
DEFAULT_BODY_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one replica. `max_requests` counts choices: each is a generation of the engine.

    `max_waiting_tokens` are those of prompts that no token was answered to yet. `write_timeout_s`: a client that takes
    nothing of its answer for so long is given up.
    """

    max_requests: int = DEFAULT_REQUESTS
    max_waiting_tokens: int = DEFAULT_WAITING_TOKENS
    max_body_bytes: int = DEFAULT_BODY_BYTES
    write_timeout_s: float = 60.0


class Place:
    """Of one HTTP request, from its admission to the end of its answer."""

    def __init__(self, admission: Admission, choices: int) -> None:
        self._admission = admission
        self.choices = choices
        self.waiting_tokens = 0

    def wait_for(self, tokens: int) -> None:
        """Counts the prompt as waiting. Raises `ResourceExhausted` when too many wait already.

        Where nothing waits, any prompt may: else one longer than the limit could never be answered.
        """
        admission = self._admission
        limit = admission.limits.max_waiting_tokens
        if admission.waiting_tokens and admission.waiting_tokens + tokens > limit:
            raise ResourceExhausted(
                f"this replica is full: {admission.waiting_tokens} tokens of prompts wait, with {tokens} more above "
                f"{limit} (max_waiting_tokens); send the request to another replica, or later"
            )
        self.waiting_tokens += tokens
        admission.waiting_tokens += tokens

    def begun(self) -> None:
        """The first token is there: the prompt waits no longer. May be repeated."""
        self._admission.waiting_tokens -= self.waiting_tokens
        self.waiting_tokens = 0


class Admission:
    """Belongs to one event loop."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.requests = 0
        self.waiting_tokens = 0

    @contextmanager
    def enter(self, choices: int) -> Iterator[Place]:
        """A place for that many generations. Raises `ResourceExhausted` when there are too few.

        As with tokens: a request of more choices than there are places is let in where nothing else runs.
        """
        limit = self.limits.max_requests
        if self.requests and self.requests + choices > limit:
            raise ResourceExhausted(
                f"this replica is full: {self.requests} generations run or wait, {choices} more would be above "
                f"{limit} (max_requests); send the request to another replica, or later"
            )
        place = Place(self, choices)
        self.requests += choices
        try:
            yield place
        finally:
            self.requests -= choices
            place.begun()
