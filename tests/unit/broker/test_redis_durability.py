"""What a Redis server's settings mean for journals in it: what is refused, what commits wait for, what is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving.broker.redis_log.durability import Durability, Facts, durability
from serving.broker.redis_log.settings import Address, RedisSettings
from serving.broker.settings import BrokerSettings
from serving.errors import FailedPrecondition, InvalidArgument, MeshError, NotSupported, Unavailable

SAFE = Facts((7, 0), aof=True, fsync="always", eviction="noeviction")
NEW = replace(SAFE, version=(7, 4))


def found(facts: Facts, sync: Any = "full", **options: Any) -> Durability:
    return durability(facts, sync=sync, **options)


def test_a_server_that_waits_for_its_disk_is_asked_for_nothing_more() -> None:
    assert found(SAFE) == found(NEW) == Durability(wait_aof=False, replicas=0)


def test_replicas_are_waited_for_with_their_disks_where_the_server_can() -> None:
    assert found(replace(SAFE, connected_replicas=2), replicas=1) == Durability(wait_aof=False, replicas=1)
    assert found(replace(NEW, connected_replicas=2), replicas=1) == Durability(wait_aof=True, replicas=1)


@pytest.mark.parametrize("fsync", ["everysec", None])
def test_one_that_waits_once_a_second_is_asked_for_each_commit_or_refused(fsync: str | None) -> None:
    new = found(replace(NEW, fsync=fsync))
    assert new.wait_aof
    assert "once a second" in new.warnings[0]
    with pytest.raises(FailedPrecondition, match="may lose the last second"):
        found(replace(SAFE, fsync=fsync))
    normal = found(replace(SAFE, fsync=fsync), "normal")
    assert not normal.wait_aof
    assert "may undo its last second" in normal.warnings[0]


def test_one_that_keeps_nothing_is_refused_unless_that_is_allowed() -> None:
    for sync in ("full", "normal"):
        with pytest.raises(FailedPrecondition, match="keeps no log on its disk"):
            found(replace(SAFE, aof=False), sync)
        allowed = found(replace(SAFE, aof=False), sync, allow_volatile=True)
        assert "requests are lost when it ends" in allowed.warnings[0]


def test_one_that_never_waits_for_its_disk_is_refused_unless_that_is_allowed() -> None:
    for sync in ("full", "normal"):
        with pytest.raises(FailedPrecondition, match="never waits for its disk"):
            found(replace(NEW, fsync="no"), sync)
        allowed = found(replace(NEW, fsync="no"), sync, allow_volatile=True)
        assert not allowed.wait_aof
        assert "half a minute and more" in allowed.warnings[0]


@pytest.mark.parametrize(
    ("facts", "error", "text"),
    [
        (replace(SAFE, bounded_memory=True, eviction="allkeys-lru"), FailedPrecondition, "noeviction"),
        (replace(SAFE, cluster=True), NotSupported, "Redis Cluster is not supported"),
        (replace(SAFE, primary=False), Unavailable, "is a replica"),
    ],
)
def test_servers_that_cannot_keep_what_is_confirmed_are_refused(
    facts: Facts, error: type[MeshError], text: str
) -> None:
    with pytest.raises(error, match=text):
        found(facts)


def test_replicas_that_are_not_there_are_not_waited_for() -> None:
    with pytest.raises(Unavailable, match="has 0 replicas, 1 are to have"):
        found(SAFE, replicas=1)


def test_what_a_server_does_not_tell_is_told() -> None:
    assert "does not tell whether it forgets" in found(replace(SAFE, bounded_memory=True, eviction=None)).warnings[0]
    assert found(replace(SAFE, bounded_memory=True, eviction="volatile-lru")).warnings == ()


def test_what_info_and_config_say_is_read() -> None:
    info = {
        "redis_version": "7.2.4", "aof_enabled": 1, "role": "master", "connected_slaves": 2, "maxmemory": 1,
        "maxmemory_policy": "noeviction",
    }  # fmt: skip
    facts = Facts.of(info, {"appendfsync": "always"})
    assert facts == Facts((7, 2), True, True, False, 2, "always", "noeviction", True)
    assert Facts.of({"redis_version": "6.0.16", "role": "slave"}, None) == Facts((6, 0), aof=False, primary=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"scope": ""}, {"scope": "a{b"}, {"takeover_s": 0.5}, {"takeover_s": float("nan")}, {"replicas": -1},
        {"cert_file": Path("/c")}, {"ca_file": Path("/ca")},
    ],
)  # fmt: skip
def test_settings_of_redis_that_cannot_be(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        RedisSettings(**{"address": Address("a"), "scope": "n/a/q", **changes})


def test_in_redis_bodies_are_smaller(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="256 MiB"):
        BrokerSettings(tmp_path, ("it",), max_result_bytes=300 << 20, redis=RedisSettings(Address("a"), "n/a/q"))
