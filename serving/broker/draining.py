"""Whether a broker takes new requests: what an operator last said, also after its process was started again.

It stands beside the journals as an empty file with the broker's name. A record in etcd would need a second writer of
the broker's endpoint, and etcd to be there. The file goes with the broker: one that comes in its place (another
revision, another placement) takes requests.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from pathlib import Path

from serving.errors import FailedPrecondition

DRAINED = "this broker is drained (`mesh queue drain`) and takes no new requests; ask another one"


class Draining:
    """`on`: no new requests are taken. What is there goes on."""

    def __init__(self, folder: Path, name: str) -> None:
        """Without a name it is not remembered."""
        self._path = folder / f"{name}.drained" if name else None
        self._writing = asyncio.Lock()
        self._discard_until = -math.inf
        self.on = False

    @property
    def discards(self) -> bool:
        """Journals are removed when the broker leaves now: their application is being deleted."""
        return self.on and time.monotonic() < self._discard_until

    async def recall(self) -> None:
        """What was said last, perhaps to another process."""
        self.on = self._path is not None and await asyncio.to_thread(self._path.exists)

    async def set(self, on: bool, *, discard_s: float = 0.0) -> None:
        """Returns when it is on disk. Raises `FailedPrecondition` when it cannot be written; then nothing changes.

        `discard_s`: journals are removed if the broker leaves within that time. Only its process knows of that.
        """
        async with self._writing:
            if self._path is not None:
                try:
                    await asyncio.to_thread(_write, self._path, on)
                except OSError as error:
                    raise FailedPrecondition(f"{self._path} cannot be changed: {error.strerror or error}") from error
            self.on = on
            self._discard_until = time.monotonic() + discard_s if on and discard_s > 0 else -math.inf


def _write(path: Path, there: bool) -> None:
    if there:
        path.touch()
    else:
        path.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)  # the name is all there is to it
    finally:
        os.close(folder)
