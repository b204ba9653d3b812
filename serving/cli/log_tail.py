"""Log files from their ends: the newest lines without reading what is before them, then what is added."""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

BLOCK_BYTES: Final = 64 << 10
UNTIMED_LINES: Final = 1000  # at most so many more are read to learn to which record a line without a time belongs

Wanted = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Source:
    """One log file, and what its lines are called."""

    name: str
    path: Path


@dataclass(slots=True)
class Tail:
    """A file that is read as it grows; a file that is replaced or cut is read from its beginning."""

    source: Source
    _file: BinaryIO | None = None
    _inode: int = 0
    _rest: bytes = field(default=b"")

    def newest(self, count: int, wanted: Wanted) -> list[str]:
        """The last full lines that are `wanted`: `count` of them and back to one with a time, or as many as there are.

        `lines` then goes on behind them.
        """
        self._open()
        if self._file is None:
            return []
        found: list[str] = []
        end = self._file.seek(0, os.SEEK_END)
        pieces = backwards(self._file, end)
        self._rest = next(pieces)
        for line in filter(wanted, map(_text, pieces if count else ())):
            found.append(line)
            enough = len(found) >= count
            if enough and (record_of(line).get("ts") or len(found) >= count + UNTIMED_LINES):
                break
        self._file.seek(end)
        return found[::-1]

    def lines(self) -> list[str]:
        """The full lines that were added since the last call."""
        self._open()
        if self._file is None:
            return []
        *full, self._rest = (self._rest + self._file.read()).split(b"\n")
        return [_text(line) for line in full]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        try:
            found = self.source.path.stat()
        except FileNotFoundError:
            return
        if self._file is not None and (found.st_ino != self._inode or found.st_size < self._file.tell()):
            self.close()
            self._rest = b""
        if self._file is None:
            self._file = self.source.path.open("rb")
            self._inode = found.st_ino


def last_lines(tails: Sequence[Tail], count: int, wanted: Wanted = lambda _: True) -> list[tuple[Source, str]]:
    """The newest `count` lines of all files that are `wanted`, in the order of their times."""
    streams = [_timed(tail.source, tail.newest(count, wanted)) for tail in tails]
    merged = [(source, line) for _, _, _, source, line in heapq.merge(*streams, key=lambda item: item[:3])]
    return merged[-count:] if count else []


def record_of(line: str) -> dict[str, Any]:
    """A line of JSON as its keys; {} for any other line."""
    if not line.startswith("{"):
        return {}
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def backwards(file: BinaryIO, end: int) -> Iterator[bytes]:
    """What stands behind the last line end before `end`, "" where nothing does; then the lines, the last one first."""
    position, pending = end, b""
    while position > 0:
        size = min(position, max(BLOCK_BYTES, len(pending)))  # a long line is not copied once for each block
        position -= size
        file.seek(position)
        pending, *found = (file.read(size) + pending).split(b"\n")
        yield from reversed(found)
    yield pending


def _timed(source: Source, lines: Sequence[str]) -> Iterator[tuple[str, str, int, Source, str]]:
    """Lines with their times; a line without one belongs to the line before."""
    moment = ""
    for number, line in enumerate(lines):
        moment = max(moment, str(record_of(line).get("ts", "")))
        yield moment, source.name, number, source, line


def _text(line: bytes) -> str:
    return line.decode("utf-8", errors="replace")
