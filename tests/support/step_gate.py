"""Steps of an engine that are made when a test says so."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator


class StepGate:
    """Holds the engine between two steps, so that a test knows how far it is."""

    def __init__(self) -> None:
        self._free = True
        self._left = 0
        self._changed = threading.Condition()
        self.each_s = 0.0  # how much longer each step takes, so that an answer is not over before anybody acts

    def let(self, steps: int) -> None:
        with self._changed:
            self._left += steps
            self._changed.notify()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Within, only those steps are made that are let."""
        self._free, self._left = False, 0
        try:
            yield
        finally:
            self.free()

    def free(self) -> None:
        with self._changed:
            self._free = True
            self._changed.notify()

    def wait(self) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._free or self._left > 0, 60)
            self._left -= 1
        time.sleep(self.each_s)
