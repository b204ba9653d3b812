"""One agent for each mesh's name in a Ray cluster: a claim in Ray's key-value store, kept alive by its holder. Pure.

etcd cannot tell: two meshes of one name that share a Ray cluster, each with an etcd of its own, would take each other's
masters for theirs. The claim lies where both look. A holder is alive when it died on no machine that we can see and its
claim still changes; clocks are never compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

from serving.errors import AlreadyExists, DataLoss

PATIENCE_S: Final = 5.0  # a claim that does not change for so long is nobody's


@dataclass(frozen=True, slots=True)
class Claim:
    """Who holds a mesh's name. `beat` grows while it lives; `etcd` is for people."""

    agent: str
    cluster: str
    etcd: str
    beat: int = 0

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()

    @staticmethod
    def from_bytes(data: bytes) -> Claim:
        """The inverse of `to_bytes`. Raises `DataLoss` for anything else."""
        try:
            found = json.loads(data)
            return Claim(str(found["agent"]), str(found["cluster"]), str(found["etcd"]), int(found["beat"]))
        except (ValueError, TypeError, KeyError) as error:
            raise DataLoss(f"not a claim: {data[:200]!r}") from error


class Claimant:
    """Says what to write, look by look. `is_dead` knows processes of this machine that ended."""

    def __init__(self, mine: Claim, mesh: str, is_dead: Callable[[str], bool]) -> None:
        self._mine = mine
        self._mesh = mesh
        self._is_dead = is_dead
        self._beat = 0
        self._other: Claim | None = None
        self._since_s = 0.0

    def look(self, found: Claim | None, now_s: float) -> Claim | None:
        """What to write over `found`; None while it is not known whether its holder lives. `now_s` is monotonic.

        Raises `AlreadyExists` when another agent holds the name, also when it took it while this one did not look.
        """
        if found is None or found.agent == self._mine.agent or self._is_dead(found.agent):
            return self._next()
        if self._other is None or self._other.agent != found.agent:
            self._other, self._since_s = found, now_s
            return None
        if found.beat != self._other.beat:
            raise AlreadyExists(self._refusal(found))
        if now_s - self._since_s < PATIENCE_S:
            return None
        return self._next()

    def _next(self) -> Claim:
        self._other = None
        self._beat += 1
        return Claim(self._mine.agent, self._mine.cluster, self._mine.etcd, self._beat)

    def _refusal(self, found: Claim) -> str:
        head = f"agent {found.agent} serves this Ray cluster already for a mesh named {self._mesh!r}"
        if found.etcd == self._mine.etcd:
            return f"{head}, as cluster {found.cluster!r}: a Ray cluster has one agent; take it out of one of the two"
        return (
            f"{head}, with etcd {found.etcd} (here: {self._mine.etcd}): meshes that share a Ray cluster need different "
            f"names; set `name` in one's mesh.yaml, or `mesh` in its agent's configuration"
        )
