"""TLS and authentication as etcd really answers them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from store_support import LONG_S, eventually, following

from serving.config import EtcdConfig, TlsConfig
from serving.errors import FailedPrecondition, PermissionDenied, StoreUnavailable, Unauthenticated
from serving.local.etcd import EtcdCluster, EtcdOptions
from serving.store import Changes, Disconnected, EtcdClient, Lease
from tests.support.certificates import Authority


def write(path: Path, text: str) -> None:
    path.write_text(text)


def remove(path: Path) -> None:
    path.unlink()


def quick(config: EtcdConfig, tls: TlsConfig | None) -> EtcdConfig:
    return replace(config, tls=tls, request_timeout_s=1.5, max_attempts=2)


async def wait_refused(config: EtcdConfig, said: str) -> None:
    """Until the reason is that: with little patience, a busy machine is first found not to answer."""
    client = EtcdClient(config)
    deadline, told = asyncio.get_running_loop().time() + LONG_S, ""
    while not re.search(said, told):
        assert asyncio.get_running_loop().time() < deadline, told
        with pytest.raises(StoreUnavailable) as refused:
            await client.get("/mesh/a")
        told = str(refused.value)
    await client.close()


async def test_tls_with_client_certificates(own_etcd: Callable[..., EtcdCluster], tmp_path: Path) -> None:
    ours, others = Authority.make(tmp_path / "ours"), Authority.make(tmp_path / "others")
    etcd = own_etcd(EtcdOptions(tls=ours.issue("server"), die_with_parent=True))
    good = ours.issue("client")
    client = EtcdClient(etcd.config(tls=good))
    await client.put("/mesh/a", b"1")
    lease = Lease(etcd.config(tls=good), ttl_s=30)
    await client.put("/mesh/b", b"1", lease=await lease.start())
    async with following(client, "/mesh/") as follower:
        assert set(follower.view) == {"/mesh/a", "/mesh/b"}
        await lease.revoke()
        await eventually(lambda: set(follower.view) == {"/mesh/a"}, "the end of the lease")
    await client.close()

    foreign = others.issue("foreign")
    for tls, said in (
        (replace(foreign, ca_file=good.ca_file), "etcd 127"),  # a certificate of another authority
        (TlsConfig(ca_file=good.ca_file), "etcd 127"),  # none at all
        (replace(good, ca_file=foreign.ca_file), "CERTIFICATE_VERIFY_FAILED|certificate"),  # we do not trust the server
        (None, "etcd 127"),  # plaintext to a TLS port
    ):
        await wait_refused(quick(etcd.config(), tls), said)
    missing = EtcdClient(quick(etcd.config(), replace(good, key_file="/no/such.key")))
    with pytest.raises(FailedPrecondition, match=r"key file of the etcd connection.*/no/such\.key"):
        await missing.get("/mesh/a")
    await missing.close()


async def test_a_certificate_for_another_address_is_refused(
    own_etcd: Callable[..., EtcdCluster], tmp_path: Path
) -> None:
    ours = Authority.make(tmp_path / "ours")
    options = EtcdOptions(
        tls=ours.issue("server", host="127.0.0.2"),
        probe_tls=replace(ours.issue("probe"), ca_file=""),
        die_with_parent=True,
    )
    etcd = own_etcd(options)
    client = EtcdClient(quick(etcd.config(), ours.issue("client")))
    with pytest.raises(StoreUnavailable):
        await client.get("/mesh/a")
    await client.close()


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("right\n")
    return path


@pytest.fixture
async def guarded(own_etcd: Callable[..., EtcdCluster]) -> EtcdCluster:
    """An etcd whose tokens are forgotten after one second without use."""
    etcd = await asyncio.to_thread(own_etcd, EtcdOptions(extra_flags=("--auth-token-ttl", "1"), die_with_parent=True))
    await asyncio.to_thread(etcd.enable_auth, "root-password", {"mesh": "right"})
    return etcd


async def test_tokens_are_renewed_without_anybody_noticing(guarded: EtcdCluster, password_file: Path) -> None:
    config = guarded.config(user="mesh", password_file=str(password_file))
    client = EtcdClient(config)
    async with following(client, "/mesh/") as follower:
        for _ in range(3):  # a machine that stops for seconds takes the lease, but not each time
            lease = Lease(config, ttl_s=10)
            await client.put("/mesh/leased", b"", lease=await lease.start())
            for number in range(2):
                await asyncio.sleep(2.5)  # the token is forgotten meanwhile
                await client.put("/mesh/a", b"%d" % number)
            await eventually(lambda: follower.values().get("a") == b"1", "the last write")
            if lease.held():
                break
            await lease.revoke()
        assert lease.held()
        await asyncio.to_thread(guarded.restart)  # all tokens are forgotten, and the watch is cut
        await client.put("/mesh/b", b"after")
        await eventually(lambda: "b" in follower.values(), "the write after the restart")
        assert follower.replacements == 0
    await lease.revoke()
    await client.close()


async def test_many_calls_with_a_forgotten_token_log_in_once_and_all_succeed(
    guarded: EtcdCluster, password_file: Path
) -> None:
    client = EtcdClient(guarded.config(user="mesh", password_file=str(password_file)))
    await client.put("/mesh/a", b"")
    await asyncio.sleep(2.5)
    await asyncio.gather(*(client.put(f"/mesh/{number}", b"") for number in range(20)))
    assert len((await client.get_prefix("/mesh/")).kvs) == 21
    await client.close()


async def test_a_rotated_password_is_picked_up(guarded: EtcdCluster, password_file: Path) -> None:
    client = EtcdClient(guarded.config(user="mesh", password_file=str(password_file)))
    write(password_file, "wrong")
    with pytest.raises(Unauthenticated, match="check the user and the password file"):
        await client.get("/mesh/a")
    write(password_file, "right")
    assert await client.get("/mesh/a") is None
    remove(password_file)
    await asyncio.sleep(2.5)
    with pytest.raises(FailedPrecondition, match="password file"):
        await client.get("/mesh/a")
    await client.close()


async def test_a_wrong_password_does_not_end_a_watch(guarded: EtcdCluster, password_file: Path) -> None:
    write(password_file, "wrong")
    client = EtcdClient(guarded.config(user="mesh", password_file=str(password_file)))
    events = client.watch("/mesh/")
    first = await asyncio.wait_for(anext(events), LONG_S)
    assert isinstance(first, Disconnected)
    assert "authentication failed" in first.error.message
    write(password_file, "right")
    second = await asyncio.wait_for(anext(events), LONG_S)
    assert not isinstance(second, Changes | Disconnected)
    await events.aclose()
    await client.close()


async def test_no_user_and_no_right(guarded: EtcdCluster, password_file: Path) -> None:
    nobody = EtcdClient(guarded.config())
    with pytest.raises(Unauthenticated, match="the store wants a user"):
        await nobody.get("/mesh/a")
    await nobody.close()
    client = EtcdClient(guarded.config(user="mesh", password_file=str(password_file)))
    with pytest.raises(PermissionDenied, match="/other"):
        await client.put("/other/a", b"")
    with pytest.raises(PermissionDenied):
        async for _ in client.watch("/other/"):
            pass
    await client.close()


async def test_a_user_at_a_store_without_authentication(
    shared_etcd: EtcdCluster, password_file: Path, prefix: str
) -> None:
    client = EtcdClient(shared_etcd.config(user="mesh", password_file=str(password_file)))
    await client.put(prefix + "a", b"1")
    assert await client.get(prefix + "a") is not None
    await client.close()


async def test_authentication_that_is_turned_on_later(
    own_etcd: Callable[..., EtcdCluster], password_file: Path
) -> None:
    etcd = await asyncio.to_thread(own_etcd)
    client = EtcdClient(etcd.config(user="mesh", password_file=str(password_file)))
    await client.put("/mesh/a", b"1")
    await asyncio.to_thread(etcd.enable_auth, "root-password", {"mesh": "right"})
    await client.put("/mesh/a", b"2")
    await client.close()
