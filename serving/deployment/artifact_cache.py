"""The artifacts of one node: fetched once, checked, unpacked once, shared by the replicas, evicted when too many.

    <cache>/artifacts/<hex>/files/            the unpacked folder
    <cache>/artifacts/<hex>/users/<process>   one per process that uses it, named as `ProcessId` is written
    <cache>/artifacts/.locks/<hex>            held while the artifact is fetched, claimed or evicted
    <cache>/artifacts/.partial/<process>-..   being fetched, or being removed, by that process

A folder `<hex>` is complete from the moment it is there. Of a killed process only something in `.partial` remains,
which the next fetch removes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

from serving.deployment import artifact_store
from serving.deployment.artifact_unpack import unpack
from serving.deployment.file_lock import file_lock, try_file_lock
from serving.errors import InvalidArgument, ResourceExhausted, Unavailable
from serving.process_id import ProcessId

DEFAULT_MAX_BYTES = 20 * 1024**3
DEFAULT_KEEP_UNUSED_S = 600.0

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class ArtifactCache:
    """The cache in `folder`. Any number of processes may use it at the same time."""

    def __init__(
        self, folder: Path, *, max_bytes: int = DEFAULT_MAX_BYTES, keep_unused_s: float = DEFAULT_KEEP_UNUSED_S
    ) -> None:
        self._root = folder / "artifacts"
        self._locks = self._root / ".locks"
        self._partial = self._root / ".partial"
        self._max_bytes = max_bytes
        self._keep_unused_s = keep_unused_s

    def get(self, uri: str, digest: str, size_bytes: int, *, user: ProcessId, now: float) -> Path:
        """The unpacked folder, fetched when it is not there yet, and marked as used by `user` until that process ends.

        `now` is the time in Unix seconds; it orders the artifacts for eviction.

        Raises: InvalidArgument for a digest of another form or an archive that must not be unpacked; NotFound and
        Unavailable from the store; DataLoss for content that is not what the digest names; ResourceExhausted for a full
        disk.
        """
        found = _DIGEST.fullmatch(digest)
        if found is None:
            raise InvalidArgument(f"artifact digest {digest!r} is not of the form sha256:<64 hex digits>")
        name = found[1]
        place = self._root / name
        with self._disk_errors():
            for folder in (self._locks, self._partial):
                folder.mkdir(parents=True, exist_ok=True)
            with file_lock(self._locks / name):
                fetched = not place.is_dir()
                if fetched:
                    self._remove_leftovers()
                    self._fetch(uri, digest, size_bytes, place)
                self._claim(place, user, now)
            if fetched:
                self.evict(now=now, keep=name)
        return place / "files"

    def release(self, user: ProcessId, *, keep: Collection[str]) -> None:
        """`user` uses no artifact any more but those of these names (the hex digits of their digests)."""
        with self._disk_errors():
            for place in self._places():
                if place.name not in keep:
                    (place / "users" / str(user)).unlink(missing_ok=True)

    def evict(self, *, now: float, keep: str = "") -> list[str]:
        """Removes artifacts that no process uses, longest unused first, until the rest fits the bound.

        Those used less than `keep_unused_s` ago stay, and so does `keep`. Returns the names of the removed.
        """
        sizes = {place.name: _folder_bytes(place) for place in self._places()}
        excess = sum(sizes.values()) - self._max_bytes
        removed: list[str] = []
        for place in sorted(self._places(), key=_last_used):
            if excess <= 0:
                break
            if place.name != keep and self._evict_one(place, now):
                removed.append(place.name)
                excess -= sizes.get(place.name, 0)
        return removed

    def _places(self) -> list[Path]:
        return [place for place in self._root.iterdir() if not place.name.startswith(".")]

    def _fetch(self, uri: str, digest: str, size_bytes: int, place: Path) -> None:
        free = shutil.disk_usage(self._root).free
        if free < size_bytes:
            raise ResourceExhausted(f"artifact {uri} needs {size_bytes} bytes, {self._root} has {free} left")
        with self._partial_folder() as partial:
            (partial / "files").mkdir(parents=True)
            (partial / "users").mkdir()
            with artifact_store.reading(uri) as stream:
                unpack(stream, partial / "files", name=uri, digest=digest, size_bytes=size_bytes)
            partial.replace(place)

    @contextlib.contextmanager
    def _partial_folder(self) -> Iterator[Path]:
        partial = self._partial / f"{ProcessId.of(os.getpid())}-{secrets.token_hex(4)}"
        try:
            yield partial
        finally:
            if partial.exists():
                shutil.rmtree(partial)

    def _remove_leftovers(self) -> None:
        for partial in self._partial.iterdir():
            owner = ProcessId.parse(partial.name)
            if owner is None or not owner.alive():
                shutil.rmtree(partial, ignore_errors=True)  # another process may remove it at the same time

    def _claim(self, place: Path, user: ProcessId, now: float) -> None:
        for other in (place / "users").iterdir():
            owner = ProcessId.parse(other.name)
            if owner is None or not owner.alive():
                other.unlink(missing_ok=True)
        (place / "users" / str(user)).touch()
        os.utime(place / "users", (now, now))

    def _evict_one(self, place: Path, now: float) -> bool:
        with try_file_lock(self._locks / place.name) as locked:
            if not locked or not place.is_dir() or now - _last_used(place) < self._keep_unused_s:
                return False
            owners = [ProcessId.parse(user.name) for user in (place / "users").iterdir()]
            if any(owner is not None and owner.alive() for owner in owners):
                return False
            with self._partial_folder() as grave:
                place.replace(grave)
            return True

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ResourceExhausted(f"the disk of {self._root} is full") from error
            raise Unavailable(
                f"the artifact cache {self._root} cannot be used: {error.strerror or error}; check its owner and rights"
            ) from error


def _last_used(place: Path) -> float:
    try:
        return (place / "users").stat().st_mtime
    except FileNotFoundError:
        return sys.float_info.max  # being removed by somebody else


def _folder_bytes(place: Path) -> int:
    total = 0
    for folder, _, files in os.walk(place):
        for file in files:
            with contextlib.suppress(FileNotFoundError):  # being removed by somebody else
                total += os.lstat(os.path.join(folder, file)).st_size
    return total
