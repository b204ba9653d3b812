"""Packs a folder into a content-addressed archive: the artifact that a revision carries.

The archive is a tar that depends on nothing but names, bytes and execute bits: entries in the order of their names,
no times, no owners, modes 0644 or 0755. So equal folders give equal archives, and the digest of the archive is the
digest of the content. Folders of any size are streamed.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast

from serving._proto.records_pb2 import Artifact
from serving.deployment import artifact_store
from serving.errors import FailedPrecondition, InvalidArgument

IGNORED_NAMES = frozenset({"__pycache__", ".git", ".DS_Store"})
"""Files and folders of these names are left out, wherever they are."""

REFRESH_S = 12 * 3600.0
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One member of an archive: a folder (`source` is None) or a file. `name` is relative, with slashes."""

    name: str
    source: Path | None
    size: int
    executable: bool


def pack(folder: Path, store_url: str) -> Artifact:
    """Archives `folder` as `<store_url>/<hex digest>.tar`, unless the store has it already and not for long.

    Links to places inside the folder are followed; their target's content is archived.

    Raises: InvalidArgument for a folder that is missing or empty, or holds links that leave it, special files or names
    that are not UTF-8; FailedPrecondition when files change meanwhile; Unavailable when the store fails.
    """
    entries = list_entries(folder)
    counting = _HashingSink(None)
    _write_tar(entries, counting)
    digest = counting.digest()
    url = f"{artifact_store.normalised(store_url)}/{digest}.tar"
    if not artifact_store.exists(url) or _is_old(url):
        with artifact_store.writing(url) as stream:
            storing = _HashingSink(stream)
            _write_tar(entries, storing)
            if storing.digest() != digest:
                raise FailedPrecondition(f"{folder} changed while it was packed; deploy again when it rests")
    return Artifact(uri=url, digest=f"sha256:{digest}", size_bytes=counting.size)


def _is_old(url: str) -> bool:
    """Written again, it is young: `mesh artifacts prune` leaves it alone until the revision that names it is stored."""
    modified_s = artifact_store.modified_s(url)
    return modified_s is not None and time.time() - modified_s > REFRESH_S


def digest_of(folder: Path) -> str:
    """The digest that `pack` would give, `sha256:<hex>`, without storing anything. Raises as `pack`."""
    sink = _HashingSink(None)
    _write_tar(list_entries(folder), sink)
    return f"sha256:{sink.digest()}"


def list_entries(folder: Path) -> list[Entry]:
    """What `pack` would archive, folders before their content, in the order of names. Raises: InvalidArgument."""
    if not folder.is_dir():
        raise InvalidArgument(f"{folder} is not a folder" if folder.exists() else f"{folder} does not exist")
    root = folder.resolve()
    try:
        entries = list(_walk(root, root, "", (root,)))
    except OSError as error:
        raise InvalidArgument(f"{error.filename or folder} cannot be read: {error.strerror or error}") from error
    if all(entry.source is None for entry in entries):
        raise InvalidArgument(f"{folder} holds no files; a model repository has one folder per model")
    return entries


def _walk(root: Path, folder: Path, prefix: str, above: tuple[Path, ...]) -> Iterator[Entry]:
    for child in sorted(folder.iterdir(), key=lambda path: os.fsencode(path.name)):
        if child.name in IGNORED_NAMES:
            continue
        name = prefix + child.name
        _check_name(child, name)
        target = _followed(root, child, name)
        details = target.stat()
        if stat.S_ISDIR(details.st_mode):
            if target in above:
                raise InvalidArgument(f"{child} is a link to a folder around itself; remove it")
            yield Entry(name, None, 0, True)
            yield from _walk(root, target, name + "/", (*above, target))
        elif stat.S_ISREG(details.st_mode):
            yield Entry(name, target, details.st_size, bool(details.st_mode & stat.S_IXUSR))
        else:
            raise InvalidArgument(f"{child} is not a file, a folder or a link; only these can be deployed")


def _check_name(path: Path, name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"the name of {os.fsencode(path)!r} is not UTF-8; rename it") from error


def _followed(root: Path, path: Path, name: str) -> Path:
    if not path.is_symlink():
        return path
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: Python before 3.13 for links in a circle
        raise InvalidArgument(f"{path} is a link to nothing ({os.readlink(path)})") from error
    if not target.is_relative_to(root):
        raise InvalidArgument(f"{path} is a link that leaves the folder (to {target}); copy the file to {name}")
    return target


class _HashingSink:
    """A file object for tarfile that hashes and counts what is written, and passes it on where there is a target."""

    def __init__(self, target: BinaryIO | None) -> None:
        self._target = target
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self.size += len(data)
        if self._target is not None:
            self._target.write(data)
        return len(data)

    def digest(self) -> str:
        return self._hash.hexdigest()


def _write_tar(entries: list[Entry], sink: _HashingSink) -> None:
    with tarfile.open(mode="w|", fileobj=cast(IO[bytes], sink), format=tarfile.PAX_FORMAT, bufsize=_BLOCK_BYTES) as tar:
        for entry in entries:
            info = tarfile.TarInfo(entry.name)
            info.mode = 0o755 if entry.executable else 0o644
            if entry.source is None:
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
                continue
            info.size = entry.size
            try:
                with entry.source.open("rb") as content:
                    tar.addfile(info, content)
            except OSError as error:  # tarfile raises it too for a file that has become shorter
                raise FailedPrecondition(f"{entry.source} cannot be packed: {error}") from error
