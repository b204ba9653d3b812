"""Removes archives that nothing in the store of the mesh names any more. Never on its own: a person asks for it.

Archives are found before the store of the mesh is read, so what is deployed in between counts. `pack` writes an archive
again that is older than `REFRESH_S`, so one that a running deployment relies on is younger than `MIN_AGE_S`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from serving._proto import records_pb2 as pb
from serving.deployment import artifact_store
from serving.deployment.artifact_archive import REFRESH_S
from serving.errors import FailedPrecondition
from serving.store import keys
from serving.store.records import decode

MIN_AGE_S: Final = 2 * REFRESH_S
_ARCHIVE: Final = re.compile(r"\.?([0-9a-f]{64})\.tar(\.[0-9a-f]+\.part)?")
_NAMED: Final = re.compile(rb"sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Archive:
    """One that may go: its url, what it takes, and whether it was never finished."""

    url: str
    size_bytes: int
    unfinished: bool


def old_archives(store_url: str, now_s: float, min_age_s: float) -> dict[str, list[Archive]]:
    """By digest (hex), what is old enough. Files that are no archives, and those without a time, are left out.

    Raises `Unavailable`, `InvalidArgument` as the artifact store does.
    """
    found: dict[str, list[Archive]] = {}
    for item in artifact_store.listing(store_url):
        match = _ARCHIVE.fullmatch(item.url.rpartition("/")[2])
        if match is not None and item.modified_s is not None and now_s - item.modified_s > min_age_s:
            archive = Archive(item.url, item.size_bytes, match.group(2) is not None)
            found.setdefault(match.group(1), []).append(archive)
    return found


def unnamed(
    archives: Mapping[str, Iterable[Archive]], values: Mapping[str, bytes], *, empty_is_right: bool
) -> list[Archive]:
    """Those whose digest stands in no value of the store (all keys below `keys.ROOT`), and all unfinished ones. Pure.

    Raises `FailedPrecondition` where the store cannot know: it holds no application at all (unless `empty_is_right`),
    or something runs of a revision that it does not have.
    """
    if not empty_is_right and not any(name.startswith(keys.APPS) for name in values):
        raise FailedPrecondition(
            "the mesh holds no application, which may also mean that its etcd was lost: nothing was removed; "
            "where that is right, say so with --all"
        )
    for name, value in values.items():
        _require_revisions(name, value, values)
    named = {digest.decode() for value in values.values() for digest in _NAMED.findall(value)}
    return [one for digest, group in archives.items() for one in group if one.unfinished or digest not in named]


def remove(archives: Iterable[Archive], say: Callable[[str], None]) -> None:
    """Raises `Unavailable` when the store refuses; one that is gone already is no error."""
    for archive in archives:
        say(f"removing {archive.url}")
        artifact_store.remove(archive.url)


def _require_revisions(name: str, value: bytes, values: Mapping[str, bytes]) -> None:
    parsed = keys.parse_app(name)
    if parsed is None or parsed[1] != "status":
        return
    status = decode(pb.ApplicationStatus, value)
    runs = {replica.revision for deployment in status.deployments for replica in deployment.replicas}
    for revision in sorted({status.serving_revision, *runs} - {0}):
        if keys.revision(parsed[0], revision) not in values:
            raise FailedPrecondition(
                f"{parsed[0]} runs revision {revision}, which is not stored any more, so its archives are not known: "
                "nothing was removed; try again when a newer revision serves"
            )
