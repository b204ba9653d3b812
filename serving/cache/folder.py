"""The folder of a cache belongs to one process at a time."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Final

from serving.errors import FailedPrecondition

_LOOK_S: Final = 0.1


class FolderLock:
    """Held from `take` to `release`, or to the end of the process, however that comes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = -1

    def take(self, wait_s: float) -> None:
        """Makes the folder. Blocks while another process has it: the one that this one replaces needs a moment to end.

        Raises `FailedPrecondition` after `wait_s`, or when the folder cannot be made.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise FailedPrecondition(f"answers cannot be kept in {self._folder}: {error.strerror}") from error
        until = time.monotonic() + wait_s
        while not self._taken():
            if time.monotonic() > until:
                self.release()
                raise FailedPrecondition(f"another process keeps its answers in {self._folder}")
            time.sleep(_LOOK_S)

    def _taken(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """May be repeated."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
