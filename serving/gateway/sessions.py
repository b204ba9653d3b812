"""To which replica a session belongs. Pure."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, TypeVar

from serving.routing import RendezvousMember, rendezvous_best

K = TypeVar("K")

MAX_SESSIONS: Final = 65_536


def session_digest(scope: str, session: str) -> bytes:
    """What is kept of a name that a client has made up: 16 bytes."""
    return hashlib.blake2b(f"{scope}\0{session}".encode("utf-8", "replace"), digest_size=16).digest()


class Sessions:
    """Bounded: what was used least recently is forgotten, and found again by its name unless replicas came or went."""

    def __init__(self, most: int = MAX_SESSIONS) -> None:
        self._most = most
        self._replicas: OrderedDict[bytes, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._replicas)

    def replica(self, digest: bytes) -> int | None:
        """The number of the one that had its last request."""
        return self._replicas.get(digest)

    def keep(self, digest: bytes, replica: int) -> None:
        self._replicas[digest] = replica
        self._replicas.move_to_end(digest)
        if len(self._replicas) > self._most:
            self._replicas.popitem(last=False)

    @staticmethod
    def first(digest: bytes, ids: Sequence[tuple[str, int]]) -> int:
        """The index of the replica at which a session begins, of ids and weights, at least one: every gateway's."""
        members = [RendezvousMember(name, weight) for name, weight in ids]
        found = rendezvous_best(digest, members, lambda _: True)
        assert found is not None
        return found
