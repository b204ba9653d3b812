"""Content of files below one folder: written beside its place, made durable, then renamed. Blocking; from any thread.

`<folder>/content/<namespace>/<name>` is whole; `<folder>/uploads/<name>` is being written, or was left by whoever died.
Names are random: no two files share one, whatever ids their records have. `<folder>/jobs/<namespace>/<batch>/` holds
what is done of a batch that has not ended.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final
from urllib.parse import quote, unquote, urlsplit

from serving.errors import DataLoss, InvalidArgument, NotSupported, ResourceExhausted, Unavailable

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class StorageFull(ResourceExhausted):
    """The file store's disk has no room."""

    http_status = 507
    error_code = "insufficient_storage"
    retry_after_s = None


@dataclass(frozen=True, slots=True)
class Content:
    """What lies in the store. `digest`: `sha256:<hex>`; `uri`: where."""

    bytes: int
    digest: str
    uri: str


@dataclass(frozen=True, slots=True)
class Found:
    """Content that is there; `changed_at` in unix seconds."""

    namespace: str
    uri: str
    changed_at: float


class ContentStore:
    """`start` makes the folders. Several processes may use one store."""

    def __init__(self, url: str) -> None:
        """Raises `InvalidArgument`, or `NotSupported` for a scheme that is none of `file`."""
        self.folder = folder_of(url)
        self._content = self.folder / "content"
        self._uploads = self.folder / "uploads"
        self._jobs = self.folder / "jobs"

    @property
    def url(self) -> str:
        return _uri(self.folder)

    def start(self) -> None:
        """Raises `StorageFull`, `Unavailable`."""
        with told(f"the file store {self.folder}"):
            for one in (self._content, self._uploads, self._jobs):
                one.mkdir(mode=0o700, parents=True, exist_ok=True)

    def free_bytes(self) -> int:
        """Raises `Unavailable`."""
        with told(f"the file store {self.folder}"):
            return shutil.disk_usage(self.folder).free

    def begin(self) -> Writing:
        """Something new, which is nobody's before `Writing.keep`. Raises `StorageFull`, `Unavailable`."""
        with told(f"the file store {self.folder}"):
            return Writing(self, self._uploads / secrets.token_hex(16))

    def path(self, uri: str) -> Path:
        """Where content lies. Raises `DataLoss` for what is not of this store."""
        parts = PurePosixPath(unquote(urlsplit(uri).path)).parts
        path = self._content.joinpath(*parts[-2:])
        if len(parts) < 2 or ".." in parts or _uri(path) != uri:
            raise DataLoss(f"{uri[:200]!r} is not in the file store {self.folder}: was `batch_store` changed?")
        return path

    def open(self, uri: str, expected_bytes: int) -> BinaryIO:
        """To be closed by the caller. Raises `DataLoss` where it is not there, or has another size."""
        path = self.path(uri)
        try:
            opened = path.open("rb")
        except FileNotFoundError as error:
            raise DataLoss(f"the content {path} is not there") from error
        except OSError as error:
            raise Unavailable(f"the content {path} cannot be read: {error.strerror or error}") from error
        size = os.fstat(opened.fileno()).st_size
        if size != expected_bytes:
            opened.close()
            raise DataLoss(f"the content {path} has {size} bytes, not {expected_bytes}")
        return opened

    def remove(self, uri: str) -> None:
        """May be repeated. Raises `Unavailable`; `DataLoss` for what is not of this store."""
        path = self.path(uri)
        with told(str(path)):
            path.unlink(missing_ok=True)

    def work_folder(self, namespace: str, batch: str) -> Path:
        """Where the runner of a batch keeps what is done; it may not be there."""
        return self._jobs / namespace / batch

    def work_folders(self) -> Iterator[tuple[str, str]]:
        """Namespace and batch of all that are there."""
        for folder in self._jobs.iterdir() if self._jobs.is_dir() else ():
            for path in folder.iterdir() if folder.is_dir() else ():
                yield folder.name, path.name

    def remove_work_folder(self, namespace: str, batch: str) -> None:
        """May be repeated. Raises `Unavailable`."""
        folder = self.work_folder(namespace, batch)
        with told(str(folder)), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)

    def found(self) -> Iterator[Found]:
        """All content that is there, whether a record names it or not."""
        for folder in self._content.iterdir():
            for path in folder.iterdir() if folder.is_dir() else ():
                with contextlib.suppress(FileNotFoundError):  # removed by somebody else since
                    yield Found(folder.name, _uri(path), path.stat().st_mtime)

    def sweep_uploads(self, before: float) -> int:
        """Removes what nobody has written to since `before` (unix seconds). How many there were."""
        removed = 0
        for path in self._uploads.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < before:
                    path.unlink()
                    removed += 1
        return removed


class Writing:
    """Content that is being written. `keep` or `discard` ends it, after an error `discard`. One thread at a time."""

    def __init__(self, store: ContentStore, path: Path) -> None:
        """Made by `ContentStore.begin`."""
        self._store = store
        self._kept: Path | None = None
        self._path = path
        self._file: BinaryIO = path.open("xb", buffering=0)
        self._digest = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes) -> None:
        """Raises `StorageFull`, `Unavailable`."""
        with told(f"the file store {self._store.folder}"):
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
        self._digest.update(data)
        self.bytes += len(data)

    @property
    def digest(self) -> str:
        return f"sha256:{self._digest.hexdigest()}"

    def keep(self, namespace: str) -> Content:
        """Makes it durable. Raises `StorageFull`, `Unavailable`."""
        target = self._store.folder / "content" / namespace / self._path.name
        with told(f"the file store {self._store.folder}"):
            os.fsync(self._file.fileno())
            self._file.close()
            if not target.parent.is_dir():
                target.parent.mkdir(exist_ok=True)
                _sync_names(target.parent.parent)
            self._path.replace(target)
            self._kept = target
            _sync_names(target.parent)
        return Content(self.bytes, self.digest, _uri(target))

    def discard(self) -> None:
        """Nothing is left of it, also where it was kept already."""
        self._file.close()
        for path in (self._path, self._kept):
            if path is not None:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def told(where: str) -> Iterator[None]:
    """Errors of the system as those of the mesh."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull(f"{where} is full: remove files, or give it a larger disk") from error
        raise Unavailable(f"{where} cannot be used: {error.strerror or error}") from error


def folder_of(url: str) -> Path:
    """The folder of `file:///...` or of an absolute path. Raises `InvalidArgument`, `NotSupported`."""
    if url.startswith("/"):
        return Path(url)
    parts = urlsplit(url)
    if parts.scheme and parts.scheme != "file":
        raise NotSupported(f"batch_store: {parts.scheme}:// is not supported: a folder is wanted, as file:///path")
    path = unquote(parts.path)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or not path.startswith("/"):
        raise InvalidArgument(f"batch_store: {url[:200]!r} is no URL of a folder, such as file:///path")
    return Path(path)


def _uri(path: Path) -> str:
    return f"file://{quote(str(path))}"


def _sync_names(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def kept(store: ContentStore, namespace: str, write: Callable[[Writing], None]) -> Content:
    """A whole file of what `write` writes; nothing of it where that fails. For makers of output, on their threads."""
    writing = store.begin()
    try:
        write(writing)
        return writing.keep(namespace)
    except BaseException:
        writing.discard()
        raise
