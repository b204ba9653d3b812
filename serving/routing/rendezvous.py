"""Consistent hashing: which endpoint a key belongs to. Pure.

When an endpoint comes or goes, only the keys that it gets or had move. Rendezvous hashing: Thaler and Ravishankar,
"Using name-based mappings to increase hit rates" (1998). Weights by the logarithmic method of Schindelhauer and
Schomaker, "Weighted distributed hash tables" (2005): the score is -weight / ln(share).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

_MASK: Final = (1 << 64) - 1


class RendezvousMember:
    """An endpoint by its id; a weight of 0 counts as 1."""

    __slots__ = ("hash", "id", "weight")

    def __init__(self, member_id: str, weight: int) -> None:
        self.id = member_id
        self.weight = weight
        self.hash = stable_hash(member_id)  # so that a choice need not read the id


def stable_hash(text: str | bytes) -> int:
    """A hash of 64 bits that is the same in every process, version and language; texts count as UTF-8.

    FNV-1a (Fowler, Noll, Vo; draft-eastlake-fnv), then the finalizer of splitmix64 (Steele, Lea, Flood: "Fast
    splittable pseudorandom number generators", 2014), as FNV alone spreads short texts badly over the high bits.
    """
    value = 0xCBF29CE484222325
    for byte in text.encode() if isinstance(text, str) else text:
        value = ((value ^ byte) * 0x100000001B3) & _MASK
    return _mixed(value)


def rendezvous_score(key_hash: int, member: RendezvousMember) -> float:
    """How strongly the member claims the key; the most wins."""
    # 52 bits and a half, so that the share is neither 0 nor rounds to 1, whose logarithm would be 0.
    share = ((_mixed(key_hash ^ member.hash) >> 12) + 0.5) * 2.0**-52
    return -max(member.weight, 1) / math.log(share)


def rendezvous_order(key: str | bytes, members: Sequence[RendezvousMember]) -> list[int]:
    """Indices of all members, the best first; ties by id."""
    key_hash = stable_hash(key)
    scores = [rendezvous_score(key_hash, member) for member in members]
    return sorted(range(len(members)), key=lambda index: (-scores[index], members[index].id))


def rendezvous_best(
    key: str | bytes, members: Sequence[RendezvousMember], allowed: Callable[[int], bool]
) -> int | None:
    """The first index of that order for which `allowed` says yes; None when there is none."""
    key_hash = stable_hash(key)
    best: int | None = None
    most = 0.0
    for index, member in enumerate(members):
        if not allowed(index):
            continue
        score = rendezvous_score(key_hash, member)
        if best is None or score > most or (score == most and member.id < members[best].id):
            best, most = index, score
    return best


def _mixed(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
