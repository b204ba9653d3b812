"""Keys as keepers store them, through the SDK and the `mesh` command."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from serving._proto import keeper_pb2 as api
from serving._proto import records_pb2 as pb
from serving.access.api_key import new_key, secret_hash
from serving.cli.group import mesh as group
from serving.errors import AlreadyExists, Conflict, InvalidArgument, MeshError, NotFound
from serving.local.etcd import EtcdCluster
from serving.sdk import AsyncMeshClient, Connection, KeyLimits, MeshClient
from serving.sdk.keepers import Keepers
from serving.store import EtcdClient, keys
from serving.store.records import decode, encode

Mesh = Callable[..., Awaitable[str]]


@pytest.fixture
def command(tmp_path: Path, etcd: EtcdCluster, mesh: AsyncMeshClient) -> Mesh:
    """Runs `mesh` with the keeper of `mesh`."""
    assert mesh.connection.etcd == etcd.config()
    state = {
        "version": 1,
        "phase": "ready",
        "etcd": {"endpoints": list(etcd.config().endpoints)},
        "artifacts": str(tmp_path / "artifacts"),
        "clusters": [],
        "processes": [],
    }
    (tmp_path / "mesh.json").write_text(json.dumps(state))

    async def run(*arguments: str, code: int = 0) -> str:
        runner = CliRunner(env={"MESH_DIR": str(tmp_path)})
        result = await asyncio.to_thread(runner.invoke, group, ["keys", *arguments])
        assert result.exit_code == code, (result.stdout, result.stderr)
        return result.stdout if code == 0 else result.stderr

    return run


async def test_the_life_of_a_key(command: Mesh, etcd: EtcdCluster) -> None:
    made = json.loads(
        await command(
            "create",
            "team-a",
            "--name",
            "notebook",
            "--model",
            "tiny-*",
            "--namespace",
            "default",
            "--expires",
            "2h",
            "--requests-per-minute",
            "60",
            "--tokens-per-day",
            "1000",
            "--json",
        )
    )
    text, key_id = made["api_key"], made["id"]
    client = EtcdClient(etcd.config())
    stored = await client.get(keys.api_key(key_id))
    assert stored is not None
    record = decode(pb.ApiKey, stored.value)
    secret = text.removeprefix(f"mesh_{key_id}_")
    assert record.secret_sha256 == secret_hash(secret)
    assert all(secret.encode() not in kv.value for kv in (await client.get_prefix(keys.ROOT)).kvs)

    shown = json.loads(await command("show", key_id, "--json"))
    assert (shown["tenant"], shown["name"], shown["models"], shown["disabled"]) == (
        "team-a",
        "notebook",
        ["tiny-*"],
        False,
    )
    assert (shown["limits"]["requests_per_minute"], shown["limits"]["tokens_total"]) == (60, None)
    assert shown["used"] == {"tokens_per_day": 0}
    assert "api_key" not in shown
    assert "sha256" not in json.dumps(shown)
    assert key_id in await command("list", "--tenant", "team-a")
    assert json.loads(await command("list", "--tenant", "team-b", "--json")) == {"keys": []}

    assert json.loads(await command("disable", key_id, "--json"))["disabled"]
    changed = json.loads(
        await command("set-limits", key_id, "--concurrent", "4", "--requests-per-minute", "0", "--json")
    )
    assert (changed["limits"]["requests_per_minute"], changed["limits"]["concurrent_requests"]) == (None, 4)
    assert (changed["limits"]["tokens_per_day"], changed["disabled"], changed["version"]) == (1000, True, 3)
    assert "disabled" in await command("show", key_id)
    assert not json.loads(await command("enable", key_id, "--json"))["disabled"]
    await command("delete", key_id)
    await command("delete", key_id)  # again is harmless
    assert key_id in await command("show", key_id, code=3)
    stored = await client.get(keys.api_key(key_id))
    assert stored is not None
    assert decode(pb.ApiKey, stored.value).secret_sha256 == ""
    await client.close()


async def test_wrong_commands(command: Mesh) -> None:
    assert "tenant" in await command("create", "No Tenant", code=2)
    assert "--expires" in await command("create", "team", "--expires", "soon", code=2)
    assert "over already" in await command("create", "team", "--expires", "2001-01-01T00:00:00Z", code=2)
    await command("create", "team", "--requests-per-minute", "0", code=2)
    assert "--concurrent" in await command("set-limits", "0" * 16, code=2)
    assert "no API key" in await command("show", "0" * 16, code=3)
    assert "16 hexadecimal" in await command("show", "../etc", code=2)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "x"),
        ("id", "0" * 15 + "/"),
        ("tenant", ""),
        ("tenant", "a/b"),
        ("name", "a\nb"),
        ("name", "x" * 101),
        ("secret_sha256", "secret"),
        ("models", [""]),
        ("models", ["a b"]),
        ("models", ["m"] * 101),
        ("namespaces", ["A"]),
        ("limits", pb.KeyLimits(tokens_total=-1)),
        ("limits", pb.KeyLimits(requests_per_minute=2**60)),
    ],
)
async def test_wrong_keys_are_refused(mesh: AsyncMeshClient, field: str, value: Any) -> None:
    fields = {"id": new_key().id, "tenant": "team", "secret_sha256": secret_hash("x"), field: value}
    store = EtcdClient(mesh.connection.etcd)
    keepers = Keepers(store, None)
    with pytest.raises(InvalidArgument, match=field):
        await keepers.call("CreateKey", api.CreateKeyRequest(key=pb.ApiKey(**fields)), timeout_s=10)
    await keepers.close()
    await store.close()


async def test_a_call_that_is_repeated(mesh: AsyncMeshClient) -> None:
    """A keeper whose answer was lost is asked again: the same key is created once, another one of its id never."""
    store = EtcdClient(mesh.connection.etcd)
    keepers = Keepers(store, None)
    key = pb.ApiKey(id=new_key().id, tenant="team", secret_sha256=secret_hash("a"), disabled=True, version=7)
    first = await keepers.call("CreateKey", api.CreateKeyRequest(key=key), timeout_s=10)
    again = await keepers.call("CreateKey", api.CreateKeyRequest(key=key), timeout_s=10)
    assert encode(first) == encode(again)
    assert (first.key.version, first.key.disabled, first.key.secret_sha256) == (1, False, "")
    key.secret_sha256 = secret_hash("b")
    with pytest.raises(AlreadyExists):
        await keepers.call("CreateKey", api.CreateKeyRequest(key=key), timeout_s=10)
    await keepers.close()
    await store.close()


async def test_changes_side_by_side(mesh: AsyncMeshClient) -> None:
    made = await mesh.keys.create("team")
    await asyncio.gather(*(mesh.keys.set_disabled(made.key.id, number % 2 == 0) for number in range(10)))
    changed = await mesh.keys.set_limits(made.key.id, KeyLimits(tokens_total=5))
    with pytest.raises(Conflict):
        await mesh.keys.set_limits(made.key.id, KeyLimits(), if_version=changed.version - 1)
    assert (await mesh.keys.get(made.key.id)).limits == KeyLimits(tokens_total=5)


def test_the_blocking_client(mesh: AsyncMeshClient) -> None:
    with MeshClient(Connection(etcd=mesh.connection.etcd, artifacts="")) as client:
        ends = datetime.now(timezone.utc) + timedelta(days=1)
        made = client.keys.create("blocking", models=["m"], limits=KeyLimits(tokens_per_month=9), expires_at=ends)
        assert made.text not in repr(made)
        assert [one.id for one in client.keys.list("blocking")] == [made.key.id]
        assert client.keys.set_disabled(made.key.id, True).disabled
        assert client.keys.set_limits(made.key.id, KeyLimits(tokens_total=1)).version == 3
        found = client.keys.get(made.key.id)
        assert found.expires_at is not None
        assert abs((found.expires_at - ends).total_seconds()) < 0.001
        client.keys.delete(made.key.id)
        with pytest.raises(NotFound) as gone:
            client.keys.get(made.key.id)
        assert isinstance(gone.value, MeshError)
