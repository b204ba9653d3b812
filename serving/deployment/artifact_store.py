"""Where artifacts' archives are kept: any fsspec URL, with a short way for local folders that does not import fsspec.

A written archive appears under its name complete or not at all.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
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
