"""Folders that a spec names: as they are on this machine, or packed and stored."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from serving._proto import records_pb2 as pb
from serving.sdk._table import Field, Record, Text, Whole


@dataclass(frozen=True, slots=True)
class Artifact:
    """A packed folder that never changes: where its archive is, and `sha256:<hex>` over its content."""

    uri: str
    digest: str
    size_bytes: int = 0


def local_path(folder: str | os.PathLike[str]) -> Path:
    """A folder's absolute path without looking at the disk; `~` is expanded."""
    return Path(os.path.abspath(Path(folder).expanduser()))


ARTIFACT: Final = Record(
    "an artifact",
    (
        Field("uri", Text(), "Where the archive can be fetched (an fsspec url).", required=True),
        Field("digest", Text(), "sha256:<hex> over the archive's content.", required=True),
        Field("size_bytes", Whole(bits=64), "Size of the archive, for information.", default=0),
    ),
)


def artifact_record(repository: str | Mapping[str, Any], artifacts: Mapping[Path, Artifact]) -> pb.Artifact:
    """The record of a folder, or of what `ARTIFACT` read. A folder that is not in `artifacts` is a `file://` url."""
    if isinstance(repository, Mapping):
        return pb.Artifact(**repository)
    if not repository:
        return pb.Artifact()
    folder = local_path(repository)
    packed = artifacts.get(folder)
    if packed is not None:
        return pb.Artifact(uri=packed.uri, digest=packed.digest, size_bytes=packed.size_bytes)
    return pb.Artifact(uri=folder.as_uri())
