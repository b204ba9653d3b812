"""Where a job's results go: what was committed, published as one, so that nobody sees half of it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import pyarrow as pa

from serving.batch.checkpoint.files import Files, disk_errors
from serving.batch.checkpoint.parts import Part, PartFormat
from serving.errors import AlreadyExists, InvalidArgument, NotSupported

JsonObject = Mapping[str, Any]
BATCH: Final = "{batch}"  # in a path: the number of the batch
_COPY_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Publication:
    """A batch that has all its rows. `still_ours` raises `Overtaken` where another driver has started since."""

    job: str
    batch: int
    epoch: int
    files: Files
    parts: Sequence[Part]
    still_ours: Callable[[], None]

    def tables(self, part_format: PartFormat) -> Iterator[pa.Table]:
        for part in self.parts:
            yield from part.tables(part_format, self.files)

    def path_of(self, part: Part, part_format: PartFormat) -> Path:
        return self.files.path(part.name + part_format.suffix)


class Sink(Protocol):
    """`publish` may be called again for the same batch, by another driver too, until one has recorded it."""

    @property
    def part_format(self) -> PartFormat: ...

    def describe(self) -> JsonObject:
        """What must be the same when the job is started again."""
        ...

    def check(self, bounded: bool) -> None:
        """At the first start of a job: whether it can be published there."""
        ...

    def publish(self, publication: Publication) -> list[str]:
        """What was made: paths, or a table and its snapshot."""
        ...


def checked_target(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    if "://" in text:
        raise NotSupported(f"{text}: a sink of files takes a path, not a URL")
    return text


def check_target(path: str, bounded: bool) -> None:
    """InvalidArgument, AlreadyExists: nothing can be published at this path."""
    if not bounded and BATCH not in path:
        raise InvalidArgument(f"{path}: an unbounded source is published batch by batch: put `{BATCH}` into the path")
    if BATCH not in path and os.path.exists(path):
        raise AlreadyExists(f"{path} is there already: remove it, or name another output")


def target_of(path: str, batch: int) -> Path:
    return Path(path.replace(BATCH, f"{batch:06d}")).absolute()


@contextlib.contextmanager
def written_beside(target: Path, publication: Publication) -> Iterator[BinaryIO]:
    """A file that appears under its name when the block ends well, and leaves nothing when it does not."""
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        for left in target.parent.glob(f".{glob_escaped(target.name)}.{publication.job}-*"):
            if int(left.name.rpartition("-")[2]) < publication.epoch:  # of a driver that died
                left.unlink(missing_ok=True)
        temporary = target.with_name(f".{target.name}.{publication.job}-{publication.epoch}")
        try:
            with temporary.open("wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            publication.still_ours()
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        publication.files.sync_folder(target.parent)


def glob_escaped(name: str) -> str:
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)


def append_file(path: Path, stream: BinaryIO, *, skip_bytes: int = 0) -> None:
    with path.open("rb") as source:
        source.seek(skip_bytes)
        shutil.copyfileobj(source, stream, _COPY_BYTES)
