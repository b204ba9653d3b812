"""How far a job is: for people a line on their terminal, for machines a JSON object in each line."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final, Protocol, TextIO

_WINDOW_S: Final = 60.0  # that a rate is of
_LINE_EVERY_S: Final = 10.0  # where nobody looks at a terminal
_UNDER_WAY: Final = ("running", "in_progress")
_ENDED: Final = ("finished", "stopped", "completed", "failed", "expired", "cancelled")


class Counted(Protocol):
    """Of rows: `serving.batch.checkpoint.Counts`, or what is read as they are."""

    @property
    def rows(self) -> int: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...


@dataclass(frozen=True)
class Progress:
    """`state`: waiting (for the source), running, disk_full, publishing, finished, stopped; of an ordered batch, its
    status. `rows`: committed.
    """

    job: str
    state: str
    batch: int
    rows: int
    pending: int  # written, and finished with the next commit
    total: int | None  # about; None: not known
    errors: int
    prompt_tokens: int
    completion_tokens: int
    rows_per_s: float
    tokens_per_s: float
    left_s: float | None
    elapsed_s: float
    detail: str = ""
    cached_tokens: int = 0  # of prompt_tokens

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class Rate:
    """Rows and tokens of a second, over the last minute of this run."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._seen: deque[tuple[float, int, int]] = deque([(self._began, 0, 0)])

    @property
    def elapsed_s(self) -> float:
        return self._clock() - self._began

    def add(self, counts: Counted) -> None:
        """Of this run, all in all."""
        now = self._clock()
        tokens = counts.prompt_tokens + counts.completion_tokens
        if now - self._seen[-1][0] >= _WINDOW_S / 60 or len(self._seen) == 1:
            self._seen.append((now, counts.rows, tokens))
        else:
            self._seen[-1] = (self._seen[-1][0], counts.rows, tokens)
        while len(self._seen) > 2 and now - self._seen[1][0] > _WINDOW_S:
            self._seen.popleft()

    def per_second(self) -> tuple[float, float]:
        first, last = self._seen[0], self._seen[-1]
        seconds = max(self._clock() - first[0], 1e-9)
        return (last[1] - first[1]) / seconds, (last[2] - first[2]) / seconds


class LinePrinter:
    """`on_progress` for people: a line that changes on a terminal, else one every ten seconds."""

    def __init__(self, stream: TextIO = sys.stderr, *, machine: bool = False) -> None:
        """`machine`: JSON, a line for each report."""
        self._stream = stream
        self._machine = machine
        self._terminal = not machine and stream.isatty()
        self._last = (0.0, "")

    def __call__(self, progress: Progress) -> None:
        if self._machine:
            print(progress.to_json(), file=self._stream, flush=True)
            return
        ended = progress.state in _ENDED
        if self._terminal:
            print(f"\r\x1b[2K{text_of(progress)}", end="\n" if ended else "", file=self._stream, flush=True)
            return
        now = time.monotonic()
        if progress.state != self._last[1] or now - self._last[0] >= _LINE_EVERY_S:
            self._last = (now, progress.state)
            print(text_of(progress), file=self._stream, flush=True)


def text_of(progress: Progress) -> str:
    parts = [progress.state.replace("_", " ")]
    if progress.total:
        shown = min(1.0, progress.rows / progress.total)
        parts.append(f"{progress.rows:,} of about {progress.total:,} rows ({shown:.0%})")
    else:
        parts.append(f"{progress.rows:,} rows")
    parts.append(f"{progress.rows_per_s:,.1f} rows/s")
    if progress.tokens_per_s:
        parts.append(f"{progress.tokens_per_s:,.0f} tokens/s")
    if progress.left_s is not None and progress.state in _UNDER_WAY:
        parts.append(f"{_duration(progress.left_s)} left")
    if progress.errors:
        parts.append(f"{progress.errors:,} failed")
    if progress.detail:
        parts.append(progress.detail)
    return " · ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
