"""What processes cost: CPU time and memory from /proc."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """CPU time that a process and its ended children have used, in seconds (resolution: one clock tick)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(fields[index]) for index in (11, 12, 13, 14)) / _TICKS_PER_S


def tree_cpu_s(pid: int) -> float:
    """As `cpu_s`, of the process and all that it has started, and so on."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            children.setdefault(int(path.read_text().rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
    total, left = 0.0, [pid]
    while left:
        one = left.pop()
        with contextlib.suppress(OSError):
            total += cpu_s(one)
        left += children.get(one, [])
    return total


def resident_bytes(pid: int) -> int:
    """Proportional share of memory (PSS), so that shared libraries are counted once over all processes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that are resident now, and the most that were since the process began or `reset_peak`."""

    resident: int
    peak: int


def memory(pid: int) -> Memory:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    return Memory(found["VmRSS"], found["VmHWM"])


def reset_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")
