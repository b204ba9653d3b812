"""What happened, for people and for metrics: a bounded list of notes beside the log."""

from __future__ import annotations

import json
import logging
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass

from keeper.changes import Note

_log = logging.getLogger("keeper")
MAX_EVENTS = 500


@dataclass(frozen=True, slots=True)
class Event:
    """`kind` is a word for machines ("placed", "restored-spec"), `message` a sentence."""

    at_unix_s: float
    kind: str
    message: str


class Events:
    """The newest `MAX_EVENTS` events and a count per kind."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self.counts: Counter[str] = Counter()

    def add(self, note: Note) -> None:
        """Keeps the note and writes it to the log."""
        self._events.append(Event(self._now_s(), note.kind, note.message))
        self.counts[note.kind] += 1
        level = logging.WARNING if note.warning else logging.INFO
        _log.log(level, "keeper event", extra={"event": note.kind, "detail": note.message})

    def all(self) -> tuple[Event, ...]:
        """Oldest first."""
        return tuple(self._events)

    def as_json(self) -> str:
        return json.dumps([asdict(event) for event in self._events])
