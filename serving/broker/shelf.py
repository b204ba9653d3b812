"""Where a broker's journals are kept, and who serves which: in the folder of a node.

Each journal `<name>.sqlite` has a lock file beside it, with an flock by whoever serves it: the kernel releases it with
the process, however that ends. It is a file of its own because SQLite holds POSIX locks on the database, which a
process loses when it closes any descriptor of that file. flock belongs to the open file, so that two brokers in one
process exclude each other, too. Both need a local disk: over NFS neither flock nor SQLite's log can be relied on.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
from pathlib import Path
from typing import Final, Literal, Protocol

from serving.broker.journal import Journal
from serving.broker.large_results import remove_large_results
from serving.errors import FailedPrecondition

SUFFIX: Final = ".sqlite"
_REMOTE: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "fuse.sshfs", "lustre"})


class Place(Protocol):
    """Of one journal. All of it blocks, and may be called from any thread, one at a time."""

    def take(self, *, begin: bool = False) -> bool:
        """To serve it, from now until `release`. False: another one does, or it is gone. `begin`: it is a new one.

        Raises `MeshError` or `OSError`.
        """

    def open(self, loop: asyncio.AbstractEventLoop) -> Journal:
        """Of one that was taken. Raises `MeshError`."""

    def release(self, *, remove: bool = False) -> None:
        """For others to serve; `remove`: with all that is in it. May be repeated. The journal is closed."""


class Shelf(Protocol):
    """All journals that a broker may serve. What it does blocks."""

    shared: bool  # over the network: it may be away for a while, and then all of it is

    def prepare(self) -> None:
        """Before anything else. Raises `FailedPrecondition` where journals cannot be kept, `Unavailable`."""

    def names(self) -> list[str]:
        """Of journals that may be taken, some of which others serve. Raises `MeshError` or `OSError`."""

    def place(self, name: str) -> Place: ...

    def close(self) -> None:
        """When all places are released."""


class JournalLock:
    """Who serves a journal."""

    def __init__(self, journal: Path) -> None:
        self._path = journal.with_suffix(".lock")
        self._file = -1

    @property
    def taken(self) -> bool:
        """Somebody has it. Who takes it at this very moment is refused, and tries again. Raises `OSError`."""
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # several may look at once
        except BlockingIOError:
            return True
        finally:
            os.close(file)
        return False

    def take(self) -> bool:
        """False: another one has it, or looks who has. Raises `OSError`."""
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it may have removed journal and lock between the two calls.
            if os.fstat(file).st_ino != os.stat(self._path).st_ino:
                raise FileNotFoundError(self._path)
        except (BlockingIOError, FileNotFoundError):
            os.close(file)
            return False
        except BaseException:
            os.close(file)
            raise
        self._file = file
        return True

    @property
    def held(self) -> bool:
        return self._file >= 0

    def release(self, *, remove: bool = False) -> None:
        """May be repeated."""
        if self._file < 0:
            return
        if remove:
            self._path.unlink(missing_ok=True)
        os.close(self._file)
        self._file = -1


class DiskPlace:
    """A file with its lock."""

    def __init__(self, path: Path, sync: Literal["full", "normal"]) -> None:
        self._path = path
        self._sync = sync
        self._lock = JournalLock(path)

    def take(self, *, begin: bool = False) -> bool:
        if not self._lock.take():
            return False
        if not begin and not self._path.exists():  # removed by whoever had it
            self._lock.release(remove=True)
            return False
        return True

    def open(self, loop: asyncio.AbstractEventLoop) -> Journal:
        return Journal.open(self._path, loop, self._sync)

    def release(self, *, remove: bool = False) -> None:
        try:
            if remove:
                remove_journal(self._path)
        finally:
            self._lock.release(remove=remove and not self._path.exists())


class DiskShelf:
    """The folder of one application's broker on one node."""

    shared = False

    def __init__(self, folder: Path, sync: Literal["full", "normal"]) -> None:
        self._folder = folder
        self._sync = sync

    def prepare(self) -> None:
        prepare_folder(self._folder)

    def names(self) -> list[str]:
        return sorted(path.stem for path in self._folder.glob(f"*{SUFFIX}"))

    def place(self, name: str) -> DiskPlace:
        return DiskPlace(self._folder / f"{name}{SUFFIX}", self._sync)

    def close(self) -> None: ...


def remove_journal(path: Path) -> None:
    """The file, what SQLite keeps beside it, and its large results. Whoever calls it holds its lock."""
    remove_large_results(path)  # first: without the file nobody would look for them
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def prepare_folder(folder: Path) -> None:
    """Makes it. Raises `FailedPrecondition` where journals cannot be kept."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}-{secrets.token_hex(4)}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise FailedPrecondition(f"journals cannot be kept in {folder}: {error.strerror or error}") from error
    kind = _file_system(folder)
    if kind in _REMOTE:
        raise FailedPrecondition(
            f"journals cannot be kept in {folder}: it is on {kind}, where locks cannot be relied on; name a local disk"
        )


def _file_system(folder: Path) -> str:
    """Its type, as the kernel says; empty where it does not."""
    path = str(folder.resolve())
    found = ("", "")
    with contextlib.suppress(OSError):
        for line in Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines():
            _, mount, kind, *_ = line.split(" ")
            mount = mount.replace("\\040", " ")
            inside = path == mount or path.startswith(mount.rstrip("/") + "/")
            if inside and len(mount) >= len(found[0]):
                found = (mount, kind)
    return found[1]
