"""Routes at a real keeper on a real etcd: stored, shown, changed by several, written back after a loss."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
from keeper_harness import Bench, eventually

from serving._proto import records_pb2 as pb
from serving.errors import Conflict, NotFound, SpecError
from serving.local.etcd import EtcdCluster
from serving.sdk import AsyncMeshClient, Connection, MeshClient, Route
from serving.store import keys
from serving.store.keys import AppKey
from serving.store.records import decode, encode

CHAT = Route("gpt-4o", {"default/chat/tiny": 90, "default/new/tiny": 10}, ("default/west/tiny",))


async def put_endpoint(bench: Bench, application: str, model: str, state: str = "ready") -> None:
    record = pb.Endpoint(
        id="m-r1-0",
        address="127.0.0.1:1",
        protocol="openai-http",
        role="direct",
        namespace="default",
        application=application,
        deployment="m",
        models=[pb.ModelRecord(name=model)],
        state=state,
    )
    key = keys.endpoint(AppKey("default", application), "direct", "m", record.id)
    await bench.client.put(key, encode(record))


async def stored(bench: Bench, name: str = CHAT.name) -> pb.RouteRecord:
    found = await bench.client.get(keys.route(name))
    assert found is not None
    return decode(pb.RouteRecord, found.value)


async def test_set_show_and_delete(bench: Bench) -> None:
    await bench.keeper()
    await put_endpoint(bench, "chat", "tiny")
    await put_endpoint(bench, "new", "tinny")
    async with AsyncMeshClient(Connection(bench.etcd)) as client:
        status, changed = await client.routes.set(CHAT, author="ann")
        assert (status.version, changed, status.author) == (1, True, "ann")
        assert [(one.model, one.ready) for one in status.models] == [
            ("default/chat/tiny", 1),
            ("default/new/tiny", 0),
            ("default/west/tiny", 0),
        ]
        assert status.warnings == (
            "default/new/tiny: application default/new offers no model `tiny`; did you mean `tinny`?",
            "default/west/tiny: application default/west has no endpoints that a gateway asks",
        )
        assert (await client.routes.set(CHAT))[1] is False
        assert (await stored(bench)).version == 1
        await put_endpoint(bench, "west", "tiny", state="draining")
        assert (await client.routes.get("gpt-4o")).models[2].warning == "none of its endpoints takes requests now"
        again, changed = await client.routes.set(Route("gpt-4o", {"default/chat/tiny": 1}), if_version=1)
        assert (again.version, changed, again.warnings) == (2, True, ())
        with pytest.raises(Conflict, match="version 2, not 1"):
            await client.routes.set(CHAT, if_version=1)
        with pytest.raises(NotFound, match="did you mean `gpt-4o`"):
            await client.routes.delete("gpt4o")
        assert [one.route.name for one in await client.routes.list()] == ["gpt-4o"]
        await client.routes.delete("gpt-4o", if_version=2)
        assert await client.routes.list() == ()
        with pytest.raises(NotFound):
            await client.routes.get("gpt-4o")


async def test_what_the_keeper_itself_refuses(bench: Bench) -> None:
    """Whoever does not use our SDK is told the same."""
    await bench.keeper()
    async with AsyncMeshClient(Connection(bench.etcd)) as client:
        with pytest.raises(SpecError):
            await client.routes.set(Route("a/b", {"default/chat/tiny": 1}))
        from serving._proto import routes_pb2 as api
        from serving.errors import InvalidArgument
        from serving.sdk.keepers import Keepers

        keepers = Keepers(bench.client, None)
        try:
            request = api.SetRouteRequest(route=pb.RouteRecord(name="a/b"))
            with pytest.raises(InvalidArgument, match="2 problems"):
                await keepers.call("mesh.v1.Routes/SetRoute", request, timeout_s=60)
        finally:
            await keepers.close()


async def test_many_writers_lose_nothing(bench: Bench) -> None:
    """Two keepers, and clients that change one route all at once: each change is a version of its own."""
    await bench.keeper("k0")
    await bench.keeper("k1")
    async with AsyncMeshClient(Connection(bench.etcd)) as one, AsyncMeshClient(Connection(bench.etcd)) as two:
        routes = [Route("r", {f"default/app-{n}/m": 1}) for n in range(12)]
        answers = await asyncio.gather(
            *((one if n % 2 else two).routes.set(route, timeout_s=60) for n, route in enumerate(routes))
        )
        assert sorted(status.version for status, _ in answers) == list(range(1, 13))
        last = max(answers, key=lambda answer: answer[0].version)[0]
        assert (await one.routes.get("r")).route == last.route


async def test_a_store_that_has_lost_them_gets_them_back(bench: Bench, etcd: EtcdCluster) -> None:
    await bench.keeper()
    async with AsyncMeshClient(Connection(bench.etcd)) as client:
        await client.routes.set(CHAT)
        before = await stored(bench)
        await asyncio.to_thread(etcd.kill)
        found = await client.routes.list(timeout_s=60)
        assert [one.route for one in found] == [CHAT], "known while the store is away"
        assert "does not answer" in found[0].warnings[0]
        await asyncio.to_thread(etcd.wipe)
        await asyncio.to_thread(etcd.start)

        async def back() -> bool:
            return await stored(bench) == before

        await eventually(back, what="the route is written back")


def test_the_blocking_client(tmp_path: Path, etcd: EtcdCluster) -> None:
    async def ask() -> None:
        from serving.store import EtcdClient

        bench = Bench(tmp_path, etcd.config(), EtcdClient(etcd.config()))
        try:
            await bench.keeper()

            def work() -> None:
                with MeshClient(Connection(etcd.config())) as client:
                    assert client.routes.set(CHAT)[1]
                    assert client.routes.get("gpt-4o").route == client.routes.list()[0].route == CHAT
                    client.routes.delete("gpt-4o")

            await asyncio.to_thread(work)
        finally:
            await bench.end()

    asyncio.run(ask())


async def mesh(bench: Bench, *arguments: str, code: int = 0) -> str:
    state = {
        "version": 1,
        "etcd": {"endpoints": list(bench.etcd.endpoints)},
        "artifacts": str(bench.folder),
        "clusters": [],
    }
    (bench.folder / "mesh.json").write_text(json.dumps(state))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "serving.cli", "routes", *arguments),
        env={**os.environ, "MESH_DIR": str(bench.folder)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == code, (out, err)
    assert b"Traceback" not in err
    return (out if code == 0 else err).decode()


async def test_the_command(bench: Bench) -> None:
    await bench.keeper()
    await put_endpoint(bench, "chat", "tiny")
    said = await mesh(bench, "set", "gpt-4o", "--to", "default/chat/tiny", "--to", "default/new/tiny=50")
    assert "route gpt-4o is stored (version 1)" in said
    assert "warning: default/new/tiny: application default/new has no endpoints" in said
    shown = json.loads(await mesh(bench, "show", "gpt-4o", "--json"))
    assert shown["targets"] == {"default/chat/tiny": 100, "default/new/tiny": 50}
    assert [one["use"] for one in shown["models"]] == ["66.7 %", "33.3 %"]
    file = bench.folder / "routes.yaml"
    file.write_text("routes: [{name: r, targets: {default/chat/tiny: 1}, fallbacks: [default/west/tiny]}]\n")
    assert "route r is stored" in await mesh(bench, "set", "-f", str(file))
    listed = await mesh(bench, "list")
    assert "gpt-4o" in listed
    assert "default/west/tiny" in listed
    assert "fallback 1" in await mesh(bench, "show", "r")
    assert "route r is deleted" in await mesh(bench, "delete", "r")
    assert "there is no route" in await mesh(bench, "show", "r", code=3)
    assert "is not MODEL or MODEL=WEIGHT" in await mesh(bench, "set", "r", "--to", "default/chat/tiny=x", code=2)
