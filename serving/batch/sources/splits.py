"""Large files in pieces, small ones together. Pure, but for the reading of a CSV's quotes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO, Final

_AT_MOST: Final = 32 << 20
_AT_LEAST: Final = 256 << 10
_TASKS: Final = 32  # into which a small input is divided, so that all workers have something to do
_FILES_TOGETHER: Final = 256


@dataclass(frozen=True)
class Listed:
    """A file of a source: `name` is the same wherever the source's folder lies; `size` in bytes when it was listed."""

    name: str
    path: str
    size: int


@dataclass(frozen=True)
class Split:
    """Of a file: what begins in [start, end), in bytes, or in row groups of a Parquet file."""

    file: Listed
    start: int
    end: int


def target_bytes(total: int) -> int:
    """How large a split should be."""
    return min(_AT_MOST, max(_AT_LEAST, total // _TASKS))


def by_bytes(file: Listed, target: int) -> Iterator[Split]:
    """Where a piece begins within a row, its reader leaves that row to the one before."""
    count = max(1, round(file.size / target))
    edges = [file.size * at // count for at in range(count + 1)]
    for start, end in pairwise(edges):
        yield Split(file, start, end)


def by_records(file: Listed, stream: BinaryIO, target: int) -> Iterator[Split]:
    """Of a CSV as RFC 4180 has it: edges are ends of lines that lie in no quotes: after an even number of them."""
    start = position = quotes = 0
    line = b""
    while position < file.size:
        skipped = stream.read(min(target, file.size - position))
        if not skipped:
            break
        position += len(skipped)
        quotes += skipped.count(b'"')
        for line in stream:  # to the end of the record in which the piece has ended
            position += len(line)
            quotes += line.count(b'"')
            if quotes % 2 == 0:
                break
        edge = min(position, file.size)
        yield Split(file, start, edge)
        start = edge


def grouped(splits: Iterable[tuple[Split, int]], target: int) -> list[list[Split]]:
    """Splits, each with its bytes, in groups for one task each: as many as `target` holds, and never too many files."""
    groups: list[list[Split]] = []
    room = 0
    for split, nbytes in splits:
        if not groups or nbytes > room or len(groups[-1]) >= _FILES_TOGETHER:
            groups.append([])
            room = target
        groups[-1].append(split)
        room -= nbytes
    return groups
