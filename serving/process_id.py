"""Who a process is: more than a pid, which is used again.

It is known by pid, start time and boot; and what it starts inherits a token in its environment, so that what is left of
a group whose leader died can be told from strangers.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serving.errors import FailedPrecondition, InvalidArgument

TOKEN_VARIABLE: Final = "MESH_PROCESS_TOKEN"
_TEXT: Final = re.compile(r"([0-9]+)-([0-9]+)-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


@dataclass(frozen=True, slots=True)
class _Stat:
    """The fields of /proc/<pid>/stat that matter here."""

    state: str
    group: int
    start_ticks: int


def _read_stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the name before the bracket may hold anything, also brackets
    return _Stat(state=fields[0], group=int(fields[2]), start_ticks=int(fields[19]))


def _has_token(pid: int, token: str) -> bool:
    wanted = f"{TOKEN_VARIABLE}={token}".encode()
    try:
        return wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False


@dataclass(frozen=True, slots=True)
class ProcessId:
    """Who a process is, for as long as the machine's disk lives. `start_ticks` counts clock ticks since boot."""

    pid: int
    start_ticks: int
    boot_id: str
    token: str

    @staticmethod
    def of(pid: int, token: str = "") -> ProcessId:
        """The identity of a running process. Raises `FailedPrecondition` when there is none of that pid."""
        stat = _read_stat(pid)
        if stat is None:
            raise FailedPrecondition(f"no process has the pid {pid}")
        return ProcessId(pid, stat.start_ticks, _boot_id(), token)

    @staticmethod
    def living(pid: int) -> ProcessId | None:
        """The identity of a process that runs; None when there is none of that pid (a zombie counts as none)."""
        try:
            found = ProcessId.of(pid)
        except FailedPrecondition:
            return None
        return found if found.alive() else None

    @staticmethod
    def parse(text: str) -> ProcessId | None:
        """Of the process whose `str` the text begins with; None for any other text. Without the token."""
        found = _TEXT.match(text)
        return ProcessId(int(found[1]), int(found[2]), found[3], "") if found else None

    def __str__(self) -> str:
        """Fit for the name of a file; the token is left out."""
        return f"{self.pid}-{self.start_ticks}-{self.boot_id}"

    def as_dict(self) -> dict[str, int | str]:
        """For a JSON file; `from_dict` is its inverse."""
        return {"pid": self.pid, "start_ticks": self.start_ticks, "boot_id": self.boot_id, "token": self.token}

    @staticmethod
    def from_dict(data: Mapping[str, object]) -> ProcessId:
        """Raises `InvalidArgument` when a field is missing or of another type."""
        try:
            pid, ticks = int(str(data["pid"])), int(str(data["start_ticks"]))
            return ProcessId(pid, ticks, str(data["boot_id"]), str(data.get("token", "")))
        except (KeyError, ValueError) as error:
            raise InvalidArgument(f"not the identity of a process: {dict(data)!r} ({error!r})") from error

    def alive(self) -> bool:
        """True while this very process runs; a zombie and another process that took the pid count as gone."""
        stat = _read_stat(self.pid)
        if stat is None or stat.start_ticks != self.start_ticks or stat.state in "ZX":
            return False
        return self.boot_id == _boot_id()

    def members(self) -> list[int]:
        """Pids that still run in its process group, the process itself included, strangers never."""
        if self.boot_id != _boot_id():
            return []
        leader_is_ours = self._leader_is_ours()
        found = []
        for entry in os.listdir("/proc"):
            stat = _read_stat(int(entry)) if entry.isdigit() else None
            if stat is None or stat.group != self.pid or stat.state in "ZX":
                continue
            if leader_is_ours or (self.token and _has_token(int(entry), self.token)):
                found.append(int(entry))
        return found

    def _leader_is_ours(self) -> bool:
        """Also true for a zombie: until it is reaped its pid, and so the group's number, cannot be given away."""
        stat = _read_stat(self.pid)
        return stat is not None and stat.start_ticks == self.start_ticks

    def signal_group(self, number: signal.Signals) -> None:
        """Sends a signal to everything that runs in its group; nobody there is no error."""
        if self._leader_is_ours() and self.boot_id == _boot_id():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)
            return
        for pid in self.members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
