"""What a checkpoint does with a file system, and nothing more: where tests break it off between any two steps."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from serving.errors import NotSupported, ResourceExhausted

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_LINKS: Final = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV}
TEMPORARY: Final = ".tmp-"


class DiskFull(ResourceExhausted):
    """A file could not be written whole; what had been written of it is gone."""


class Files:
    """A folder that every worker and driver of a job reaches under the same path. Names are relative to it."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        text = os.fspath(root)
        if "://" in text:
            raise NotSupported(f"{text}: a job's folder must be a path that driver and workers share, not a URL")
        self.root = Path(text).absolute()

    def path(self, name: str) -> Path:
        return self.root / name

    def make_folder(self, name: str) -> None:
        with disk_errors(self.path(name)):
            self.path(name).mkdir(parents=True, exist_ok=True)

    def write(self, name: str, fill: Callable[[BinaryIO], None]) -> int:
        """Makes a durable file that nobody else writes. Returns its bytes. DiskFull: nothing is left of it."""
        path = self.path(name)
        try:
            with disk_errors(path), path.open("xb") as stream:
                fill(stream)
                stream.flush()
                os.fsync(stream.fileno())
                size = stream.tell()
            self.sync_folder(path.parent)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return size

    def write_bytes(self, name: str, data: bytes) -> int:
        """As `write`."""
        return self.write(name, lambda stream: _write_all(stream, data))

    def create(self, name: str, data: bytes) -> bool:
        """Makes a file appear whole and durable under its name, or not at all: False where there is one already."""
        path = self.path(name)
        temporary = path.parent / f"{TEMPORARY}{path.name}-{secrets.token_hex(8)}"
        self.write_bytes(str(temporary.relative_to(self.root)), data)
        try:
            with disk_errors(path):
                os.link(temporary, path)
        except (FileExistsError, FileNotFoundError):  # the latter: somebody who is further removed the temporary file
            return False
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise NotSupported(
                    f"{self.root}: a job's folder needs a file system with hard links: {error}"
                ) from None
            raise
        finally:
            temporary.unlink(missing_ok=True)
        self.sync_folder(path.parent)
        return True

    def read(self, name: str) -> bytes:
        return self.path(name).read_bytes()

    def names(self, folder: str) -> list[str]:
        """Sorted; none where there is no such folder."""
        try:
            return sorted(os.listdir(self.path(folder)))
        except FileNotFoundError:
            return []

    def remove(self, name: str) -> None:
        """A file, or an empty folder; nothing where it is gone."""
        path = self.path(name)
        with contextlib.suppress(FileNotFoundError):
            path.rmdir() if path.is_dir() else path.unlink()

    def sync_folder(self, folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_all(stream: BinaryIO, data: bytes) -> None:
    stream.write(data)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(
                f"{path}: {error.strerror}: free some space there; what was committed is untouched"
            ) from error
        raise
