"""The secrets that callbacks are signed with: files of one folder, read when they are needed.

A file is named as the secret, and has a line `whsec_<base64>` for each key; a callback is signed with all of them, so
that receivers can change from one to the next. They are nowhere else: not in the journal, in etcd or in a log.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from serving.errors import FailedPrecondition, InvalidArgument, MeshError, NotFound
from serving.problems import shown
from serving.webhooks import read_secret

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MOST_BYTES: Final = 4096
_MOST_KEYS: Final = 8
_MOST_KNOWN: Final = 1024


class Secrets:
    """`folder` None: there are none. A file that changes is read again."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._known: dict[str, tuple[tuple[int, int, int], tuple[bytes, ...]]] = {}

    def keys(self, name: str) -> tuple[bytes, ...]:
        """At least one. Raises `InvalidArgument`, `NotFound`, or `FailedPrecondition` for a file that is malformed."""
        if _NAME.fullmatch(name) is None:
            raise InvalidArgument(
                f"callback.secret_name: {shown(name)} is no name of a secret: letters, digits, `._-`, at most 64"
            )
        if self._folder is None:
            raise NotFound("callback.secret_name: this broker has no secrets (broker.callbacks.secrets)")
        try:
            return self._read(name, self._folder / name)
        except FileNotFoundError:
            self._known.pop(name, None)
            raise NotFound(f"callback.secret_name: this broker has no secret {shown(name)}") from None
        except OSError as error:
            raise FailedPrecondition(f"the secret {name} cannot be read: {error.strerror or error}") from error

    def _read(self, name: str, path: Path) -> tuple[bytes, ...]:
        stat = os.stat(path)
        mark = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        known = self._known.get(name)
        if known is not None and known[0] == mark:
            return known[1]
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        keys = _keys(name, data)
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[name] = (mark, keys)
        return keys


def _keys(name: str, data: bytes) -> tuple[bytes, ...]:
    lines = [line.strip() for line in data.decode("ascii", "replace").splitlines()]
    texts = [line for line in lines if line and not line.startswith("#")]
    if len(data) > _MOST_BYTES or not 0 < len(texts) <= _MOST_KEYS:
        raise FailedPrecondition(f"the secret {name} has not 1 to {_MOST_KEYS} lines `whsec_<base64>`")
    try:
        return tuple(read_secret(text) for text in texts)
    except MeshError as error:
        raise FailedPrecondition(f"the secret {name} is malformed: {error.message}") from error
