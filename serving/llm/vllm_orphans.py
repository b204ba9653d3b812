"""Ends vLLM's processes when the one that started them is gone.

Killed, it cannot do so; they do not notice it, and a GPU's memory would stay theirs.

A small process waits for the end of its standard input, which the owner holds open. Then it kills whoever has the
owner's mark in the environment that it was started with. Linux only (`/proc`).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Final

_MARK: Final = "MESH_VLLM_OWNER"
_ROUNDS: Final = 100
_PAUSE_S: Final = 0.1
_LAST_S: Final = 15.0


class OrphanWatch:
    """One watching process. In this order: `marking` while vLLM starts, `close`."""

    def __init__(self) -> None:
        self._mark = f"{_MARK}={secrets.token_hex(16)}"
        # By its file and without anything of the mesh: it is there at once, and small.
        command = [sys.executable, "-I", "-S", __file__, self._mark]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    @contextlib.contextmanager
    def marking(self) -> Iterator[None]:
        """Processes that start meanwhile (and theirs) are vLLM's."""
        name, _, value = self._mark.partition("=")
        os.environ[name] = value
        try:
            yield
        finally:
            del os.environ[name]

    def close(self) -> None:
        """Ends what is left of them, and the watch. May be repeated."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(_LAST_S)


def _marked(mark: bytes) -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):  # it ended, or is another user's
                with open(f"/proc/{name}/environ", "rb") as file:
                    found = mark in file.read().split(b"\0")
                if found:
                    yield int(name)


def main(mark: str) -> None:
    sys.stdin.buffer.read()
    for _ in range(_ROUNDS):
        left = list(_marked(mark.encode()))
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_PAUSE_S)


if __name__ == "__main__":
    main(sys.argv[1])
