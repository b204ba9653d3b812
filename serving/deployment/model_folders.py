"""The folder of models that one replica serves: its own real folders, with links to what the artifact holds.

    <node cache>/repositories/<process>/<digest>-<token>/<model>/config.pbtxt → <artifact>/<model>/config.pbtxt
    <node cache>/repositories/<process>/<digest>-<token>/<model>/1/model.onnx → <artifact>/<model>/1/model.onnx

Triton takes a version of a model for unchanged unless its folder is newer than the one that it loaded before. The
artifact's folders are shared by all replicas of the node and never change, so each replica has folders of its own, down
to the versions, and sets their times.
"""

from __future__ import annotations

import errno
import secrets
import shutil
from pathlib import Path

from serving.errors import ResourceExhausted, Unavailable
from serving.process_id import ProcessId

_REPOSITORIES = "repositories"
_NONE = "none"
_OWN_LEVELS = 2  # models and versions


def compose(cache_dir: Path, artifact: Path, digest: str, *, user: ProcessId, in_use: Path | None = None) -> Path:
    """A new folder for the process `user` over the unpacked `artifact`, whose digest is 64 hex digits.

    Removes the earlier ones of that process but for `in_use`, and those of processes that have ended. Raises
    `Unavailable` or `ResourceExhausted` when the disk does not take it.
    """
    own = cache_dir / _REPOSITORIES / str(user)
    try:
        own.mkdir(parents=True, exist_ok=True)
        _sweep(own, in_use)
        folder = own / f"{digest}-{secrets.token_hex(4)}"
        folder.mkdir()
        for entry in sorted(artifact.iterdir()):
            _mirror(entry, folder / entry.name, own_folders=_OWN_LEVELS)
    except OSError as error:
        raised = ResourceExhausted if error.errno in (errno.ENOSPC, errno.EDQUOT) else Unavailable
        raise raised(f"the folder of models {own} cannot be written: {error.strerror or error}") from error
    return folder.absolute()


def compose_empty(cache_dir: Path, *, user: ProcessId) -> Path:
    """A folder without models for the process `user`. Raises as `compose`."""
    nothing = cache_dir / _REPOSITORIES / str(user) / f"{_NONE}-{secrets.token_hex(4)}"
    try:
        nothing.mkdir(parents=True)
    except OSError as error:
        raised = ResourceExhausted if error.errno in (errno.ENOSPC, errno.EDQUOT) else Unavailable
        raise raised(f"the folder of models {nothing} cannot be written: {error.strerror or error}") from error
    return nothing.absolute()


def digest_of(folder: Path) -> str:
    """The digest of the artifact behind a folder that `compose` made."""
    return folder.name.partition("-")[0]


def _mirror(source: Path, place: Path, *, own_folders: int) -> None:
    if own_folders == 0 or not source.is_dir():
        place.symlink_to(source.absolute())
        return
    place.mkdir()
    for entry in source.iterdir():
        _mirror(entry, place / entry.name, own_folders=own_folders - 1)


def _sweep(own: Path, in_use: Path | None) -> None:
    for folder in own.iterdir():
        if in_use is None or folder.name != in_use.name:
            shutil.rmtree(folder)
    for other in own.parent.iterdir():
        owner = ProcessId.parse(other.name)
        if owner is None or not owner.alive():
            shutil.rmtree(other, ignore_errors=True)  # another process may remove it at the same time
