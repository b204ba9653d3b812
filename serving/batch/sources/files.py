"""Sources of files: which ones, and what every kind of them has in common."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from serving.batch.sources.base import dataset_of
from serving.batch.sources.splits import Listed, Split, grouped, target_bytes
from serving.batch.steps import StepResources
from serving.errors import DataLoss, InvalidArgument, NotFound, NotSupported

if TYPE_CHECKING:
    from ray.data import Dataset

JsonObject = Mapping[str, Any]
_MAGIC: Final = "*?["
_HIDDEN: Final = (".", "_")  # files that writers of data mean for themselves
_SAMPLE_BYTES: Final = 1 << 20


def listed(paths: Sequence[str], suffixes: Sequence[str]) -> list[Listed]:
    """Files of paths, folders (all below that end so) and patterns, sorted by name. NotFound: a path names nothing."""
    found: list[Listed] = []
    for number, path in enumerate(paths):
        prefix = f"{number}:" if len(paths) > 1 else ""
        files = [Listed(prefix + name, str(file), file.stat().st_size) for name, file in _below(path, suffixes)]
        if not files:
            raise NotFound(f"{path}: there is no file of this kind ({', '.join(suffixes)})")
        found.extend(sorted(files, key=lambda file: file.name))
    return found


def _below(path: str, suffixes: Sequence[str]) -> Iterator[tuple[str, Path]]:
    if "://" in path:
        raise NotSupported(f"{path}: sources of files are paths that driver and workers share, not URLs")
    if any(sign in path for sign in _MAGIC) and not os.path.exists(path):
        root = Path(os.path.dirname(path[: min(path.index(sign) for sign in _MAGIC if sign in path)]) or ".").absolute()
        matches = (Path(match).absolute() for match in glob.iglob(path, recursive=True))
        yield from ((str(file.relative_to(root)), file) for file in matches if file.is_file())
        return
    base = Path(path).absolute()
    if base.is_file():
        yield base.name, base
    elif base.is_dir():
        for file in base.rglob("*"):
            name = file.relative_to(base)
            hidden = any(part.startswith(_HIDDEN) for part in name.parts)
            if file.is_file() and not hidden and file.name.endswith(tuple(suffixes)):
                yield str(name), file


class FileSource:
    """Files that are there when the job starts, as they are then: what is added later is not read."""

    kind = ""
    suffixes: Sequence[str] = ()
    bounded = True
    poll_s = 0.0
    resources = StepResources()  # of reading

    def __init__(
        self, paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], *, identifier: str = ""
    ) -> None:
        """`identifier`: the column whose values name rows, unlike in all rows; "": by place and content."""
        several = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        if not several:
            raise InvalidArgument("a source of files needs at least one path")
        self.paths = [os.fspath(path) for path in several]
        self.identifier = identifier

    def describe(self) -> JsonObject:
        return {"kind": self.kind, "paths": self.paths, "identifier": self.identifier}

    def plan(self, position: JsonObject) -> JsonObject | None:
        if self.ended(position):
            return None
        return plan_of(listed(self.paths, self.suffixes))

    def ended(self, position: JsonObject) -> bool:
        return bool(position.get("read"))

    def advance(self, position: JsonObject, plan: JsonObject) -> JsonObject:  # noqa: ARG002
        return {"read": True}

    def read(self, plan: JsonObject) -> Dataset:
        files = files_of(plan)
        total = sum(file.size for file in files)
        target = target_bytes(total)
        groups = grouped((pair for file in files for pair in self.splits(file, target)), target)
        return dataset_of(f"Read {self.kind}", groups, self._read_group, total, self.resources)

    def rows(self, plan: JsonObject) -> int | None:
        return sum(self.rows_of(file) for file in files_of(plan))

    def _read_group(self, group: Sequence[Split]) -> Iterator[pa.Table]:
        for split in group:
            yield from self.read_split(split)

    def splits(self, file: Listed, target: int) -> Iterator[tuple[Split, int]]:
        """Each with its bytes."""
        raise NotImplementedError

    def read_split(self, split: Split) -> Iterator[pa.Table]:
        raise NotImplementedError

    def rows_of(self, file: Listed) -> int:
        """About; here from how long the first lines are."""
        with open(file.path, "rb") as stream:
            sample = stream.read(min(_SAMPLE_BYTES, file.size))
        return round(file.size * sample.count(b"\n") / len(sample)) if sample else 0


def plan_of(files: Sequence[Listed]) -> JsonObject:
    return {"files": [[file.name, file.path, file.size] for file in files]}


def files_of(plan: JsonObject) -> list[Listed]:
    """DataLoss: one is gone or has shrunk since it was listed."""
    files = [Listed(name, path, size) for name, path, size in plan["files"]]
    for file in files:
        try:
            size = os.stat(file.path).st_size
        except FileNotFoundError:
            raise DataLoss(f"{file.path}: the job reads this file, and it is gone: put it back") from None
        if size < file.size:
            raise DataLoss(
                f"{file.path}: it had {file.size} bytes when the job started and has {size} now: put it back"
            )
    return files
