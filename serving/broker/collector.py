"""Keeps Python's collector from looking through what waits: a million items would stop the broker for a second.

Items hold no cycles, so their memory comes back without it. What was there when much more waited than before is frozen
(`gc.freeze`), so that the collector passes over it; when far less waits, it looks at everything again. It is the whole
process's: it belongs to a process whose work is the broker.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Iterator
from typing import Final

_LOG: Final = logging.getLogger(__name__)
STEP: Final = 50_000  # items; to look through so many takes some 50 ms


class Frozen:
    """`items` is how many waited or ran when the collector was told last; 0: it looks at everything."""

    def __init__(self) -> None:
        self.items = 0

    def follow(self, items: int, *, collect: bool = True) -> None:
        """Called about once a second with how many wait or run. `collect`: what is young and of no use is not kept."""
        if items >= self.items + STEP:
            if collect:
                gc.collect(1)
            gc.freeze()
            self.items = items
            _LOG.info("the collector passes over what waits", extra={"items": items, "objects": gc.get_freeze_count()})
        elif self.items and items < self.items // 2:
            gc.unfreeze()
            self.items = 0
            _LOG.info("the collector looks at everything again", extra={"items": items})


@contextlib.contextmanager
def resting() -> Iterator[None]:
    """The collector does nothing meanwhile: reading a journal makes many objects, and none that is of no use."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
