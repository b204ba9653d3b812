"""Homes whose journals are in Redis: who takes which journal, and with what servers they begin at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serving.broker.home import Home
from serving.broker.redis_log.scripts import Keys
from serving.broker.redis_log.settings import Address, RedisSettings
from serving.broker.settings import BrokerSettings
from serving.errors import FailedPrecondition, MeshError, Unavailable
from tests.support.certificates import Authority
from tests.support.redis_server import LoneRedis, shared_redis
from tests.support.waiting import eventually_async


def home_of(folder: Path, redis: Any, **changes: Any) -> Home:
    return Home(BrokerSettings(folder=folder, deployments=("it",), redis=redis, **changes))


async def test_a_home_hands_its_journals_to_one_elsewhere_and_leaves_no_files(tmp_path: Path) -> None:
    wanted = shared_redis().settings()
    first, second = home_of(tmp_path / "one", wanted, sync="normal"), home_of(tmp_path / "two", wanted, sync="normal")
    await first.start()
    await second.start()
    (name,) = first.shards
    assert name not in second.shards
    first.draining.on = False
    await first.close()
    await eventually_async(lambda: name not in first.shards and not list((tmp_path / "one").iterdir()), what="no file")
    client: Any = shared_redis().client
    await eventually_async(
        lambda: client.smembers(f"mesh:{{{wanted.scope}}}:journals") == {name.encode() for name in second.shards},
        what="the empty one is adopted, and gone",
    )
    await second.close()
    left = {key.decode().rpartition(":")[2] for key in client.scan_iter(match=f"mesh:{{{wanted.scope}}}:*")}
    assert left == {"journals", "meta"}, "who comes next finds its journal"


async def test_a_home_whose_journal_was_taken_goes_on_with_another_one(tmp_path: Path) -> None:
    wanted = shared_redis().settings(takeover_s=1.0)
    first, second = home_of(tmp_path / "one", wanted, sync="normal"), home_of(tmp_path / "two", wanted, sync="normal")
    await first.start()
    (name,) = first.shards
    await second.start()

    def lapsed() -> bool:
        shared_redis().client.delete(Keys(wanted.scope, name).owner)
        return name in second.shards

    await eventually_async(lapsed, what="it is taken")
    await eventually_async(lambda: first.shards and name not in first.shards, what="it has one of its own")
    await eventually_async(lambda: not first.refused, what="what another one serves is none of its troubles")
    for home in (first, second):
        await home.close()


async def test_who_was_killed_is_followed_at_once_by_the_process_of_its_name(tmp_path: Path) -> None:
    wanted = shared_redis().settings(takeover_s=600.0)
    first = home_of(tmp_path / "one", wanted, sync="normal", name="queue-r1-0-g1")
    await first.start()
    (name,) = first.shards
    again = home_of(tmp_path / "two", wanted, sync="normal", name="queue-r1-0-g1")
    other = home_of(tmp_path / "three", wanted, sync="normal", name="queue-r1-1-g1")
    await other.start()
    await again.start()
    assert name not in other.shards
    assert name in again.shards
    for home in (other, again, first):
        await home.close()


async def test_two_processes_of_one_name_do_not_take_journals_from_each_other(tmp_path: Path) -> None:
    """As when an actor is started elsewhere while the one before lives on, cut off from its cluster only."""
    wanted = shared_redis().settings(takeover_s=1.0)
    first = home_of(tmp_path / "one", wanted, sync="normal", name="queue-r1-0-g1")
    await first.start()
    (name,) = first.shards
    again = home_of(tmp_path / "two", wanted, sync="normal", name="queue-r1-0-g1")
    await again.start()
    assert name in again.shards
    shard = again.shards[name]
    await eventually_async(lambda: first.shards and name not in first.shards, what="it has one of its own")
    others = dict(first.shards)
    for shelf in (first._shelf, again._shelf):
        looks = count_calls(shelf, "names")
        await eventually_async(lambda looks=looks: len(looks) >= 2, what="looks at what could be adopted")
    assert again.shards == {name: shard}
    assert shard.journal.failure is None
    assert first.shards == others
    for home in (again, first):
        await home.close()


def count_calls(of: Any, name: str) -> list[None]:
    calls: list[None] = []
    call = getattr(of, name)

    def counted(*given: Any) -> Any:
        answer = call(*given)
        calls.append(None)
        return answer

    setattr(of, name, counted)
    return calls


async def test_a_server_that_loses_all_when_it_ends_is_refused_at_the_start(tmp_path: Path) -> None:
    with LoneRedis(tmp_path / "redis", appendonly="no") as server:
        with pytest.raises(FailedPrecondition, match="keeps no log on its disk"):
            await home_of(tmp_path / "one", server.settings()).start()
        home = home_of(tmp_path / "one", server.settings(allow_volatile=True))
        await home.start()
        assert len(home.shards) == 1
        await home.close()


async def test_a_server_with_a_password_asks_for_it(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("geheim\n")
    with LoneRedis(tmp_path / "redis", requirepass="geheim") as server:
        with pytest.raises(FailedPrecondition, match="does not let the broker in") as error:
            await home_of(tmp_path / "one", server.settings()).start()
        secret.write_text("falsch")
        with pytest.raises(MeshError) as error:
            await home_of(tmp_path / "one", server.settings(password_file=secret)).start()
        assert "falsch" not in error.value.message
        secret.write_text("geheim\n")
        home = home_of(tmp_path / "one", server.settings(password_file=secret))
        await home.start()
        assert len(home.shards) == 1
        await home.close()


async def test_a_server_with_certificates_is_spoken_to_with_tls(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path / "authority")
    theirs, ours = authority.issue("server"), authority.issue("broker")
    options = {
        "tls-ca-cert-file": theirs.ca_file, "tls-cert-file": theirs.cert_file, "tls-key-file": theirs.key_file,
    }  # fmt: skip
    with LoneRedis(tmp_path / "redis", **options) as server:
        address = Address("127.0.0.1", server.port, tls=True)
        files = {"ca_file": Path(ours.ca_file), "cert_file": Path(ours.cert_file), "key_file": Path(ours.key_file)}
        home = home_of(tmp_path / "one", RedisSettings(address, "t/a/tls", **files))
        await home.start()
        assert len(home.shards) == 1
        await home.close()
        with pytest.raises(Unavailable, match="does not answer"):
            await home_of(tmp_path / "one", RedisSettings(address, "t/a/tls")).start()


async def test_a_user_with_the_rights_that_the_guide_names_is_enough(tmp_path: Path, own: LoneRedis) -> None:
    rights = ["on", ">geheim", "~mesh:*", "+@read", "+@write", "+@scripting", "+@connection", "+info", "+wait"]
    own.client.execute_command("ACL", "SETUSER", "mesh", *rights)  # type: ignore[no-untyped-call]
    secret = tmp_path / "password"
    secret.write_text("geheim")
    given: Any = {"scope": "t/a/user", "password_file": secret}
    settings = RedisSettings(Address("127.0.0.1", own.port, user="mesh"), **given)
    if own.version < (7, 2):
        with pytest.raises(FailedPrecondition, match="does not tell its appendfsync"):
            await home_of(tmp_path / "one", settings).start()
    home = home_of(tmp_path / "one", settings, sync="normal")
    await home.start()
    assert len(home.shards) == 1
    await home.close()
    own.client.execute_command("ACL", "SETUSER", "mesh", "+config|get")  # type: ignore[no-untyped-call]
    home = home_of(tmp_path / "one", settings)
    await home.start()
    assert len(home.shards) == 1
    await home.close()


async def test_a_server_that_is_not_there_is_said(tmp_path: Path) -> None:
    settings = shared_redis().settings()
    away = type(settings)(Address("127.0.0.1", 1), settings.scope)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1/0 does not answer"):
        await home_of(tmp_path / "one", away).start()
