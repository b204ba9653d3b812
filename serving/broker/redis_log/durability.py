"""What a Redis server's settings mean for what was confirmed, and what a commit waits for because of it. Pure.

https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from serving.errors import FailedPrecondition, NotSupported, Unavailable

_WAITAOF: Final = (7, 2)
_WAIT_MS: Final = 2000  # of one WAIT or WAITAOF; then it is asked again
_HOW: Final = "set `appendonly yes` and `appendfsync always` in the server's configuration"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server says of itself. None: it does not (managed ones often refuse CONFIG)."""

    version: tuple[int, ...]
    aof: bool
    primary: bool = True
    cluster: bool = False
    connected_replicas: int = 0
    fsync: str | None = None  # always, everysec, no
    eviction: str | None = None  # maxmemory-policy
    bounded_memory: bool = False

    @classmethod
    def of(cls, info: Mapping[str, Any], config: Mapping[str, str] | None) -> Facts:
        """Of the answers to INFO, and to CONFIG GET where that is allowed."""
        version = tuple(int(part) for part in str(info.get("redis_version", "0")).split(".")[:2] if part.isdigit())
        said = config or {}
        return cls(
            version,
            aof=bool(int(info.get("aof_enabled", 0))),
            primary=info.get("role") != "slave",
            cluster=bool(int(info.get("cluster_enabled", 0))),
            connected_replicas=int(info.get("connected_slaves", 0)),
            fsync=said.get("appendfsync"),
            eviction=info.get("maxmemory_policy") or said.get("maxmemory-policy"),
            bounded_memory=bool(int(info.get("maxmemory", 0))),
        )


@dataclass(frozen=True, slots=True)
class Durability:
    """What follows each commit: WAITAOF for the server's own disk, or WAIT, for so many replicas; and what is to be
    told of it.
    """

    wait_aof: bool
    replicas: int
    warnings: tuple[str, ...] = ()

    @property
    def waits(self) -> tuple[str | int, ...]:
        """The command that follows a write, on its connection; empty: none does."""
        if self.wait_aof:
            return ("WAITAOF", 1, self.replicas, _WAIT_MS)
        return ("WAIT", self.replicas, _WAIT_MS) if self.replicas else ()

    def reached(self, answer: int | Sequence[int]) -> bool:
        """Of that command: it is on as many disks, or replicas, as it should be."""
        wanted = (1, self.replicas) if self.wait_aof else (self.replicas,)
        found = (answer,) if isinstance(answer, int) else tuple(answer)
        return all(have >= want for have, want in zip(found, wanted, strict=True))


def durability(
    facts: Facts, *, sync: Literal["full", "normal"], replicas: int = 0, allow_volatile: bool = False
) -> Durability:
    """Raises `FailedPrecondition` for a server that would lose what was confirmed, `NotSupported`, `Unavailable`."""
    _check_server(facts, replicas)
    if not facts.aof:
        return _volatile(replicas, allow_volatile)
    if facts.fsync == "no":
        return _never_synced(facts, replicas, allow_volatile)
    can_wait = facts.version >= _WAITAOF
    if sync == "normal":
        warnings = () if facts.fsync == "always" else ("a failure of the server's machine may undo its last second",)
        return Durability(False, replicas, (*warnings, *_unknown(facts)))
    if facts.fsync == "always":
        return Durability(can_wait and replicas > 0, replicas, _unknown(facts))
    if not can_wait:
        found = "appendfsync everysec" if facts.fsync else "it does not tell its appendfsync, and has no WAITAOF"
        raise FailedPrecondition(
            f"the Redis server may lose the last second of what was confirmed ({found}): {_HOW}, use Redis 7.2 or "
            "newer, or say `sync: normal` where that may be"
        )
    slow = "commits wait for the server's disk, which it asks once a second: `appendfsync always` makes them faster"
    return Durability(True, replicas, (slow, *_unknown(facts)))


def _check_server(facts: Facts, replicas: int) -> None:
    if facts.cluster:
        raise NotSupported("Redis Cluster is not supported: name one server, or the address of its primary")
    if not facts.primary:
        raise Unavailable("the Redis server is a replica, which cannot be written: name the primary")
    if facts.bounded_memory and (facts.eviction or "").startswith("allkeys-"):
        raise FailedPrecondition(
            f"the Redis server forgets keys when its memory is full (maxmemory-policy {facts.eviction}), and requests "
            "with them: set `maxmemory-policy noeviction`"
        )
    if facts.connected_replicas < replicas:
        raise Unavailable(
            f"the Redis server has {facts.connected_replicas} replicas, {replicas} are to have what is confirmed"
        )


def _volatile(replicas: int, allow_volatile: bool) -> Durability:
    if not allow_volatile:
        raise FailedPrecondition(
            f"the Redis server keeps no log on its disk (appendonly no), so requests are lost when it ends: {_HOW}, or "
            "say `redis.allow_volatile` where that may be"
        )
    return Durability(False, replicas, ("the server keeps no log on its disk: requests are lost when it ends",))


def _never_synced(facts: Facts, replicas: int, allow_volatile: bool) -> Durability:
    if not allow_volatile:
        raise FailedPrecondition(
            "the Redis server never waits for its disk (appendfsync no), so a failure of its machine may undo half a "
            f"minute and more: {_HOW}, or say `redis.allow_volatile` where that may be"
        )
    warning = "the server never waits for its disk: a failure of its machine may undo half a minute and more"
    return Durability(False, replicas, (warning, *_unknown(facts)))


def _unknown(facts: Facts) -> tuple[str, ...]:
    if facts.bounded_memory and facts.eviction is None:
        return ("the server does not tell whether it forgets keys when its memory is full (maxmemory-policy)",)
    return ()
