"""Where artifacts' archives are kept: any fsspec URL, with a short way for local folders that does not import fsspec.

A written archive appears under its name complete or not at all.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from serving.errors import InvalidArgument, MeshError, NotFound, Unavailable


def local_path(url: str) -> Path | None:
    """The path that a `file://` URL or a plain path names; None for every other scheme."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return Path(url)
    return Path(rest) if scheme in ("file", "local") else None


def normalised(url: str) -> str:
    """`url` without slashes at its end; plain paths become absolute `file://` URLs. Raises: InvalidArgument."""
    if not url.strip():
        raise InvalidArgument("the artifact store's URL is empty; give a folder or an fsspec URL such as s3://bucket/x")
    path = local_path(url)
    return url.rstrip("/") if path is None else f"file://{path.absolute()}"


def exists(url: str) -> bool:
    """True when the store has an object of this name. Raises: Unavailable, InvalidArgument for an unknown scheme."""
    path = local_path(url)
    if path is not None:
        return path.is_file()
    with _translated(url):
        filesystem, name = _filesystem(url)
        return bool(filesystem.isfile(name))


@dataclass(frozen=True, slots=True)
class Item:
    """An object of a store. `modified_s` is seconds since the epoch; None where the store does not tell."""

    url: str
    size_bytes: int
    modified_s: float | None


def listing(url: str) -> list[Item]:
    """The objects right below `url`, in the order of their names; none where nothing was stored yet.

    Raises: Unavailable, InvalidArgument for an unknown scheme.
    """
    path = local_path(url)
    base = normalised(url)
    with _translated(url):
        if path is not None:
            files = sorted(entry for entry in path.iterdir() if entry.is_file()) if path.is_dir() else []
            found = [(entry.name, entry.stat()) for entry in files]
            return [Item(f"{base}/{name}", stat.st_size, stat.st_mtime) for name, stat in found]
        filesystem, name = _filesystem(base)
        if not filesystem.isdir(name):
            return []
        entries = sorted(filesystem.ls(name, detail=True), key=lambda entry: str(entry["name"]))
        files_there = [entry for entry in entries if entry["type"] == "file"]
        return [
            Item(
                f"{base}/{one['name'].rpartition('/')[2]}", int(one["size"] or 0), _modified_s(filesystem, one["name"])
            )
            for one in files_there
        ]


def modified_s(url: str) -> float | None:
    """When the object was written; None where the store does not tell. Raises: NotFound, Unavailable."""
    path = local_path(url)
    with _translated(url):
        if path is not None:
            return path.stat().st_mtime
        return _modified_s(*_filesystem(url))


def remove(url: str) -> None:
    """Removes an object; one that is not there is no error. Raises: Unavailable."""
    path = local_path(url)
    with _translated(url):
        if path is not None:
            path.unlink(missing_ok=True)
            return
        filesystem, name = _filesystem(url)
        with contextlib.suppress(FileNotFoundError):
            filesystem.rm_file(name)


def _modified_s(filesystem: Any, name: str) -> float | None:
    try:
        return float(filesystem.modified(name).timestamp())
    except NotImplementedError:
        return None


@contextlib.contextmanager
def reading(url: str) -> Iterator[BinaryIO]:
    """The object as a stream. Its reader turns errors of its own into errors of the mesh before they leave the block.

    Raises: NotFound, Unavailable, InvalidArgument for an unknown scheme.
    """
    path = local_path(url)
    with _translated(url):
        if path is not None:
            with path.open("rb") as stream:
                yield stream
        else:
            filesystem, name = _filesystem(url)
            with filesystem.open(name, "rb") as stream:
                yield cast(BinaryIO, stream)


@contextlib.contextmanager
def writing(url: str) -> Iterator[BinaryIO]:
    """A stream whose content becomes the object when the block ends without an exception.

    Raises: Unavailable when the store refuses, InvalidArgument for an unknown scheme.
    """
    path = local_path(url)
    with _translated(url):
        if path is not None:
            with _writing_local(path) as stream:
                yield stream
        else:
            with _writing_remote(url) as stream:
                yield stream


@contextlib.contextmanager
def _writing_local(path: Path) -> Iterator[BinaryIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with partial.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _writing_remote(url: str) -> Iterator[BinaryIO]:
    filesystem, name = _filesystem(url)
    partial = f"{name}.{secrets.token_hex(4)}.part"
    filesystem.makedirs(filesystem._parent(name), exist_ok=True)
    try:
        with filesystem.open(partial, "wb") as stream:
            yield cast(BinaryIO, stream)
        filesystem.mv(partial, name)
    except BaseException:
        with contextlib.suppress(Exception):
            filesystem.rm(partial)  # best effort: the error that led here is the one to report
        raise


def _filesystem(url: str) -> tuple[Any, str]:
    import fsspec  # imported late: it takes longer than a whole run of `prepare` on a warm cache

    filesystem, name = fsspec.core.url_to_fs(url)
    return filesystem, str(name)


@contextlib.contextmanager
def _translated(url: str) -> Iterator[None]:
    try:
        yield
    except MeshError:
        raise
    except FileNotFoundError as error:
        raise NotFound(f"artifact store: {url} does not exist") from error
    except (ValueError, ImportError) as error:
        raise InvalidArgument(f"artifact store: {url} cannot be used: {error}") from error
    except OSError as error:
        raise Unavailable(f"artifact store: {url} cannot be reached: {error.strerror or error}") from error
