"""What is being waited for, said when it takes longer than two seconds: a spinner on a terminal, else plain lines."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.status import Status

QUIET_S: Final = 2.0


class Waiting:
    """A context around something slow. Call it with a sentence whenever what is waited for changes. On standard error.

    `at_once` says the first sentence without waiting two seconds, for what is known to be slow.
    """

    def __init__(self, text: str, *, quiet: bool = False, at_once: bool = False) -> None:
        self._text = text
        self._quiet = quiet
        self._delay_s = 0.0 if at_once else QUIET_S
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()
        self._showing = False
        self._done = False
        self._status: Status | None = None
        self._started_s = time.monotonic()

    def __enter__(self) -> Waiting:
        if not self._quiet:
            self._timer = threading.Timer(self._delay_s, self._show)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Nothing is waited for any more. Repeatable."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
        with self._lock:
            self._done = True
            if self._status is not None:
                self._status.stop()

    def __call__(self, text: str) -> None:
        """Something else is waited for now."""
        with self._lock:
            changed, self._text = text != self._text, text
            if self._showing and changed and not self._done:
                self._say()

    def _show(self) -> None:
        with self._lock:
            if self._done:
                return
            self._showing = True
            if sys.stderr.isatty():
                from rich.console import Console
                from rich.markup import escape

                self._status = Console(stderr=True).status(escape(self._text))
                self._status.start()
            else:
                self._say()

    def _say(self) -> None:
        if self._status is not None:
            from rich.markup import escape

            self._status.update(escape(self._text))
        elif not sys.stderr.isatty():
            sys.stderr.write(f"[{time.monotonic() - self._started_s:5.1f} s] {self._text}\n")
            sys.stderr.flush()
