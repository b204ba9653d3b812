"""Unpacks an artifact's archive from a stream and checks it on the way. Trusts nothing in it.

Only plain files and folders below the target are made: names that are absolute or leave the target, links, devices,
pipes, sparse files and names that come twice are refused. No more bytes are read than the artifact's record allows.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

from serving.errors import DataLoss, InvalidArgument, ResourceExhausted

_BLOCK_BYTES = 1 << 20


class _CheckedStream:
    """Hashes and counts what passes, and ends with an error instead of passing more than `limit` bytes."""

    def __init__(self, source: BinaryIO, name: str, limit: int) -> None:
        self._source = source
        self._name = name
        self._limit = limit
        self._hash = hashlib.sha256()
        self.size = 0

    def read(self, count: int = -1) -> bytes:
        data = self._source.read(min(count, _BLOCK_BYTES) if count >= 0 else _BLOCK_BYTES)
        self.size += len(data)
        if self.size > self._limit:
            raise DataLoss(f"artifact {self._name} has more than the {self._limit} bytes that its record says")
        self._hash.update(data)
        return data

    def drain(self) -> None:
        while self.read(_BLOCK_BYTES):
            pass

    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"


def unpack(source: BinaryIO, target: Path, *, name: str, digest: str, size_bytes: int) -> None:
    """Unpacks into the existing, empty folder `target`. When it raises, what is in there is worthless.

    `name` is what errors call the artifact.

    Raises: DataLoss when size or digest differ from what is expected; InvalidArgument for an archive with anything but
    plain files and folders; ResourceExhausted for a full disk.
    """
    stream = _CheckedStream(source, name, size_bytes)
    refusal: InvalidArgument | None = None
    try:
        with tarfile.open(mode="r|", fileobj=cast(IO[bytes], stream), bufsize=_BLOCK_BYTES) as archive:
            for member in archive:
                _unpack_member(archive, member, target)
    except (tarfile.TarError, EOFError) as error:
        refusal = InvalidArgument(f"artifact {name} is not a tar archive: {error}")
    except InvalidArgument as error:
        refusal = InvalidArgument(f"artifact {name} is refused: {error.message}")
    stream.drain()
    # A wrong digest explains whatever was found wrong inside.
    if stream.size != size_bytes:
        raise DataLoss(f"artifact {name} has {stream.size} bytes, its record says {size_bytes}")
    if stream.digest() != digest:
        raise DataLoss(f"artifact {name} has digest {stream.digest()}, its record says {digest}")
    if refusal is not None:
        raise refusal


def _unpack_member(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    path = target / _safe_name(member.name)
    try:
        if member.isdir():
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
        elif member.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
            _write_file(archive, member, path)
        else:
            kind = "a link" if member.issym() or member.islnk() else "neither a file nor a folder"
            raise InvalidArgument(f"entry {member.name!r} is {kind}; only files and folders are unpacked")
    except FileExistsError as error:
        raise InvalidArgument(f"entry {member.name!r} comes twice") from error
    except NotADirectoryError as error:
        raise InvalidArgument(f"entry {member.name!r} lies in a file") from error
    except OSError as error:
        if isinstance(error, tarfile.TarError) or error.errno is None:
            raise tarfile.ReadError(str(error)) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceExhausted(f"the disk of {target} is full") from error
        raise InvalidArgument(f"entry {member.name!r} cannot be unpacked: {error.strerror}") from error


def _safe_name(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if not name or "\0" in name or path.is_absolute() or ".." in path.parts or path == PurePosixPath("."):
        raise InvalidArgument(f"entry {name!r} leaves the folder")
    return path


def _write_file(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    content = archive.extractfile(member)
    if content is None:
        raise InvalidArgument(f"entry {member.name!r} has no content")
    mode = 0o755 if member.mode & 0o100 else 0o644
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        shutil.copyfileobj(content, file, _BLOCK_BYTES)
        file.flush()
        os.fsync(file.fileno())
    if path.stat().st_size != member.size:
        raise tarfile.ReadError(f"{member.name!r} ends early")
