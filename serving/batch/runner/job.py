"""What a batch's work is to its runner: a job whose steps block, one after the other, in threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from serving._proto import batch_pb2 as pb
from serving.gateway.catalog import ModelKey


class Halt(Enum):
    """Why a job is to stop before it is done."""

    CANCELLED = "cancelled"
    EXPIRED = "expired"  # its window is over
    PUT_BACK = "put_back"  # another runner, or a later time, goes on with it
    GIVEN_UP = "given_up"  # too many attempts broke
    LOST = "lost"  # another runner has it: nothing that this one writes counts


class Stop:
    """Asks a job to stop; the first word holds, but for a loss. From any thread."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self._lock = threading.Lock()
        self._why: Halt | None = None
        self._asked_at: float | None = None

    @property
    def why(self) -> Halt | None:
        return self._why

    @property
    def asked_at(self) -> float | None:
        """When the first word came (of `time.monotonic`); None: none did."""
        return self._asked_at

    def ask(self, why: Halt) -> None:
        with self._lock:
            if self._asked_at is None:
                self._asked_at = time.monotonic()
            if self._why is None or why is Halt.LOST:
                self._why = why
        self.event.set()


@dataclass(frozen=True, slots=True)
class Counts:
    """Of a batch's lines and their tokens. `failed` lines have an answer that is an error."""

    total: int = 0
    completed: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Checked:
    """What the input is. `models` are the names that its lines ask for; with `errors` nothing of it is run."""

    total: int
    models: tuple[str, ...] = ()
    errors: Sequence[pb.BatchLineError] = ()
    error_count: int = 0


@dataclass(frozen=True, slots=True)
class Published:
    """What is ready for clients once `files` have records. Empty ids: nothing was to be said there."""

    counts: Counts
    files: tuple[pb.FileRecord, ...] = field(default=())
    output_file: str = ""
    error_file: str = ""


class Job(Protocol):
    """One batch under one claim. Each method blocks, and raises `MeshError` for what another attempt may mend."""

    def check(self) -> Checked:
        """Reads the input line by line. Raises `DataLoss` where it is gone or damaged for ever."""

    def run(self, models: dict[str, ModelKey], tell: Callable[[Counts], None], stop: threading.Event) -> None:
        """Sends what has no answer yet until all have one, or `stop` is set; what is done then stays done."""

    def publish(self, halt: Halt | None) -> Published:
        """Makes the files of what is done. With `EXPIRED`, lines without an answer are said to be expired."""

    def unpublish(self, published: Published) -> None:
        """Removes those files: no record names them."""

    def discard(self) -> None:
        """The batch has ended: removes what the job kept."""


MakeJob = Callable[[pb.BatchOrder], Job]  # raises `MeshError` for an order that cannot be run here
