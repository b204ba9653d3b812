"""Child processes of a local mesh: started in a group of their own, known by more than a pid, ended by that group.

A pid alone names nobody: it is reused. A child is known by pid, start time and boot, and everything it starts inherits
a token in its environment, so that what is left of a group whose leader died can be told from strangers.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from serving.errors import DeadlineExceeded, FailedPrecondition
from serving.process_id import TOKEN_VARIABLE, ProcessId

_POLL_S: Final = 0.02
_LOG_TAIL_BYTES: Final = 4096


def stop_group(process: ProcessId, *, grace_s: float = 10.0) -> bool:
    """Ends a process group: SIGTERM, then SIGKILL for what is left after `grace_s`. True when the TERM was enough.

    Does nothing to a process that took the pid since. Returns when nothing of the group runs any more; raises
    `DeadlineExceeded` when something survives SIGKILL for 10 s (it hangs in the kernel).
    """
    process.signal_group(signal.SIGTERM)
    process.signal_group(signal.SIGCONT)  # a stopped process cannot act on a TERM
    if _wait_until(lambda: not process.members(), grace_s):
        return True
    kill_group(process)
    return False


def kill_group(process: ProcessId) -> None:
    """SIGKILL for a whole process group. Returns when it is gone; raises `DeadlineExceeded` after 10 s."""
    process.signal_group(signal.SIGKILL)
    if not _wait_until(lambda: not process.members(), 10.0):
        raise DeadlineExceeded(f"pids {process.members()} still run 10 s after SIGKILL: look at their state in /proc")


def _wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _popen(words: Sequence[str], *, log: int, cwd: Path | None, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=cwd, env=env, start_new_session=True
    )


# The kernel sends the death signal when the *thread* that started the child ends: this one ends with the interpreter.
_SPAWNER: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mesh-spawner")


def _with_death_signal(command: Sequence[str]) -> list[str]:
    """Wraps a command so that it is killed when its parent ends. Not `preexec_fn`: gRPC's threads forbid it.

    A parent that ended before the kernel knew of it sends no signal any more, so the command is then not begun.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise FailedPrecondition("setpriv was not found; install it: apt-get install util-linux")
    only_with_parent = 'test "$PPID" -eq "$0" && exec "$@"'
    return [setpriv, "--pdeathsig", "KILL", "--", "/bin/sh", "-c", only_with_parent, str(os.getpid()), *command]


class Process:
    """A child in its own session and process group, with its output in a file. Use one thread at a time."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], identity: ProcessId, log_file: Path) -> None:
        self.name = name
        self.identity = identity
        self.log_file = log_file
        self._popen = popen

    @staticmethod
    def start(
        name: str,
        command: Sequence[str | os.PathLike[str]],
        *,
        log_file: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        die_with_parent: bool = False,
    ) -> Process:
        """Starts `command` with `env` added to our environment. Its output is appended to `log_file` (mode 0600).

        With `die_with_parent` the kernel kills it when we end, however we end; its own children it does not.
        Raises `FailedPrecondition` when it cannot be executed.
        """
        words = [os.fspath(word) for word in command]
        token = uuid.uuid4().hex
        log_file.parent.mkdir(parents=True, exist_ok=True)
        log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            full_env = {**os.environ, **(env or {}), TOKEN_VARIABLE: token}
            if die_with_parent:
                wrapped = _with_death_signal(words)
                popen = _SPAWNER.submit(_popen, wrapped, log=log, cwd=cwd, env=full_env).result()
            else:
                popen = _popen(words, log=log, cwd=cwd, env=full_env)
        except OSError as error:
            raise FailedPrecondition(f"{name}: cannot execute {words[0]}: {error}") from error
        finally:
            os.close(log)
        return Process(name, popen, ProcessId.of(popen.pid, token), log_file)

    @property
    def pid(self) -> int:
        return self.identity.pid

    def running(self) -> bool:
        """True until the process itself ended. Does not reap it, so that its pid stays ours."""
        return self.identity.alive()

    def exit_status(self) -> int | None:
        """None while it runs, else its status; minus the number of the signal that ended it."""
        return None if self.running() else self._popen.wait()

    def wait_ready(self, ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Returns as soon as `ready()` is true. On failure the caller still owns the process and stops it.

        Raises `FailedPrecondition` when the process ends first and `DeadlineExceeded` when the time is over; both
        carry the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            if not self.running():
                status = self.exit_status()
                raise FailedPrecondition(f"{self.name} ended with status {status} before it was ready; {self._said()}")
            if ready():
                return
            if time.monotonic() >= deadline:
                raise DeadlineExceeded(f"{self.name} was not ready within {timeout_s:g} s; {self._said()}")
            time.sleep(_POLL_S)

    def _said(self) -> str:
        tail = log_tail(self.log_file)
        return f"end of {self.log_file}:\n{tail}" if tail else f"{self.log_file} is empty"

    def stop(self, *, grace_s: float = 10.0) -> bool:
        """SIGTERM, then SIGKILL, for the whole group; may be repeated. True when the TERM was enough."""
        gentle = stop_group(self.identity, grace_s=grace_s)
        self._popen.wait()  # only now: an unreaped leader keeps the group's number from being given away
        return gentle

    def kill(self) -> None:
        """SIGKILL for the whole group; returns when it is gone. May be repeated."""
        kill_group(self.identity)
        self._popen.wait()

    def pause(self) -> None:
        """SIGSTOP for the whole group."""
        self.identity.signal_group(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT for the whole group."""
        self.identity.signal_group(signal.SIGCONT)


def log_tail(path: Path, *, max_bytes: int = _LOG_TAIL_BYTES) -> str:
    """The last whole lines of a text file, at most `max_bytes`; empty when there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - max_bytes))
            data = file.read(max_bytes)
    except FileNotFoundError:
        return ""
    if size > max_bytes:
        data = data.partition(b"\n")[2] or data
    return data.decode("utf-8", errors="replace").strip()
