"""Names of the mesh's Ray actors: deterministic, so that creating twice finds the first. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from serving.store.keys import AppKey

_MASTER: Final = re.compile(r"master:([^/:]+)/([^/:]+):g(\d+)")
_REPLICA: Final = re.compile(r"replica:([^/:]+)/([^/:]+):g(\d+):(.+)")
_REPLICA_ID: Final = re.compile(r"(.+)-r(\d+)-(\d+)")


def ray_namespace(mesh: str) -> str:
    """The Ray namespace of everything that the mesh of this name runs: other meshes of a Ray cluster never see it."""
    return f"mesh-{mesh}"


@dataclass(frozen=True, slots=True, order=True)
class MasterName:
    """A master: the application and the generation that it serves."""

    app: AppKey
    generation: int

    def __str__(self) -> str:
        return f"master:{self.app}:g{self.generation}"


@dataclass(frozen=True, slots=True, order=True)
class ReplicaName:
    """A replica. `id` is unique in its application and generation: `<deployment>-r<revision>-<index>`."""

    app: AppKey
    generation: int
    deployment: str
    revision: int
    index: int

    @property
    def id(self) -> str:
        return f"{self.deployment}-r{self.revision}-{self.index}"

    def __str__(self) -> str:
        return f"replica:{self.app}:g{self.generation}:{self.id}"


def parse_master(actor_name: str) -> MasterName | None:
    """None for the name of anything but a master."""
    found = _MASTER.fullmatch(actor_name)
    return MasterName(AppKey(found[1], found[2]), int(found[3])) if found else None


def parse_replica(actor_name: str) -> ReplicaName | None:
    """None for the name of anything but a replica."""
    found = _REPLICA.fullmatch(actor_name)
    parts = _REPLICA_ID.fullmatch(found[4]) if found else None
    if found is None or parts is None:
        return None
    return ReplicaName(AppKey(found[1], found[2]), int(found[3]), parts[1], int(parts[2]), int(parts[3]))
