"""Deploy, wait, follow and delete, through real keepers."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import replace
from typing import Any

import pytest
from sdk_harness import until
from sdk_mesh import Mesh, application, failed, starting

from serving.errors import (
    Conflict,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    SpecError,
    StoreUnavailable,
    Unavailable,
)
from serving.local.etcd import EtcdCluster
from serving.sdk import AppEvent, Application, AsyncMeshClient, MeshClient, Resources


async def test_the_whole_life_of_an_application(mesh: Mesh) -> None:
    mesh.start_keeper("k1")
    mesh.start_cluster()
    app = application(mesh.folder)
    said: list[str] = []
    async with AsyncMeshClient(mesh.connection) as client:
        first = await client.deploy(app, wait=True, timeout_s=60, on_progress=said.append)
        assert (first.revision, first.changed) == (1, True)
        assert first.status is not None
        assert first.status.ready
        assert said[0].startswith("packing ")
        assert said[1] == "default/digits revision 1 stored"
        assert said[-1] == "READY on east"
        again = await client.deploy(app, wait=True, timeout_s=60)
        assert (again.revision, again.changed) == (1, False)
        changed = replace(app, labels={"team": "vision"})
        second = await client.deploy(changed, wait=True, timeout_s=60, if_revision=1, author="me")
        assert second.revision == 2
        with pytest.raises(Conflict):
            await client.deploy(app, if_revision=1)
        assert [(entry.revision, entry.author) for entry in await client.revisions(app)] == [(2, "me"), (1, "")]
        back = await client.rollback("digits", 1, wait=True, timeout_s=60)
        assert back.revision == 3
        status = await client.status("default/digits")
        assert (status.cluster, status.generation, status.revision, status.phase) == ("east", 1, 3, "READY")
        assert [entry.name for entry in await client.list()] == ["digits"]
        assert await client.list("other") == ()
        assert [cluster.record.name for cluster in await client.clusters()] == ["east"]
        await client.delete(app, wait=True, timeout_s=60)
        with pytest.raises(NotFound):
            await client.status(app)
        with pytest.raises(NotFound):
            await client.delete(app)


async def test_dry_run_stores_nothing(mesh: Mesh) -> None:
    mesh.start_keeper("k1")
    mesh.start_cluster()
    async with AsyncMeshClient(mesh.connection) as client:
        await mesh.cluster_seen(client)
        result = await client.deploy(application(mesh.folder), dry_run=True)
        assert result.would_place is not None
        assert result.would_place.cluster == "east"
        assert await client.list() == ()


async def test_failure_says_exactly_why(mesh: Mesh) -> None:
    mesh.start_keeper("k1")
    mesh.cluster.judge = failed
    mesh.start_cluster()
    async with AsyncMeshClient(mesh.connection) as client:
        with pytest.raises(FailedPrecondition) as caught:
            await client.deploy(application(mesh.folder), wait=True, timeout_s=60)
    text = str(caught.value)
    assert text.startswith("default/digits revision 1 failed: FAILED: no replica of digits can start; ")
    assert "deployment digits: 0 of 1 replicas ready" in text
    assert "replica digits-r1-0 FAILED: model digits: input 0 has 3 dims, config says 4" in text


async def test_timeout_says_what_is_missing(mesh: Mesh) -> None:
    mesh.start_keeper("k1")
    mesh.cluster.judge = starting
    async with AsyncMeshClient(mesh.connection) as client:
        await client.deploy(application(mesh.folder), timeout_s=60)
        await until_told(client, "no cluster is registered")
        await until_late(client, application(mesh.folder), r"not ready after 5 s: PENDING: .*no cluster is registered")
        mesh.start_cluster()
        await until_told(client, "digits-r1-1")
        late = "deployment digits: 1 of 2 replicas ready; replica digits-r1-1 STARTING"
        await until_late(client, application(mesh.folder), late)


async def until_late(client: AsyncMeshClient, app: Application, text: str) -> None:
    """Until a deploy that waits for five seconds ends so: on a busy machine other things may take all of them."""
    deadline, told = time.monotonic() + 90, ""
    while not re.search(text, told):
        assert time.monotonic() < deadline, told
        with pytest.raises((DeadlineExceeded, Unavailable)) as caught:
            await client.deploy(app, wait=True, timeout_s=5)
        told = str(caught.value)


async def until_told(client: AsyncMeshClient, text: str) -> None:
    """Until the status of `digits` has the text somewhere."""
    deadline = time.monotonic() + 60
    while text not in repr(await client.status("digits")):
        assert time.monotonic() < deadline, f"the status never had {text!r}"
        await asyncio.sleep(0.05)


async def test_too_big_says_so_per_cluster(mesh: Mesh) -> None:
    mesh.start_keeper("k1")
    mesh.start_cluster()
    app = application(mesh.folder)
    big = replace(app, deployments=[replace(app.deployments[0], resources=Resources(cpus=1000))])
    async with AsyncMeshClient(mesh.connection) as client:
        await mesh.cluster_seen(client)
        await client.deploy(big, timeout_s=60)
        await until_told(client, "needs 1000 CPUs")
        await until_late(client, big, r"east: .*1000")


async def test_a_newer_revision_ends_the_wait(mesh: Mesh) -> None:
    mesh.start_keeper("k1")
    mesh.cluster.judge = starting
    mesh.start_cluster()
    app = application(mesh.folder)
    async with AsyncMeshClient(mesh.connection) as client:
        said: list[str] = []
        first = asyncio.create_task(client.deploy(app, wait=True, timeout_s=60, on_progress=said.append))
        await until(lambda: "revision 1 stored" in "".join(said), what="it is stored")
        await client.deploy(replace(app, labels={"a": "b"}))
        with pytest.raises(Conflict, match="revision 2 was stored meanwhile"):
            await first


async def test_wrong_specs_and_names_never_leave(mesh: Mesh) -> None:
    async with AsyncMeshClient(mesh.connection) as client:
        with pytest.raises(SpecError, match="did you mean `digits`"):
            await client.deploy(replace(application(mesh.folder), name="Digits"))
        app = application(mesh.folder)
        gone = replace(app, deployments=[replace(app.deployments[0], repository="/gone")])
        with pytest.raises(InvalidArgument, match="does not exist"):
            await client.deploy(gone)
        for name in ("", "a/b/c", "A", "a/"):
            with pytest.raises(InvalidArgument, match="names no application"):
                await client.status(name)


async def test_another_keeper_takes_over_while_waiting(mesh: Mesh) -> None:
    mesh.start_keeper("k1")
    mesh.start_keeper("k2")
    mesh.cluster.judge = starting
    mesh.start_cluster()
    app = application(mesh.folder)
    async with AsyncMeshClient(mesh.connection) as client:
        said: list[str] = []
        waiting = asyncio.create_task(client.deploy(app, wait=True, timeout_s=90, on_progress=said.append))
        await until(lambda: any("1 of 2 replicas" in sentence for sentence in said), what="it starts")
        mesh.keepers[0].kill()
        assert [entry.name for entry in await client.list()] == ["digits"]
        with pytest.raises(Conflict, match="revision 2 was stored meanwhile"):
            await asyncio.gather(waiting, client.deploy(replace(app, labels={"a": "b"}), timeout_s=60))


async def test_watch_shows_each_change(mesh: Mesh) -> None:
    mesh.start_keeper("k1")
    mesh.start_cluster()
    app = application(mesh.folder)
    async with AsyncMeshClient(mesh.connection) as client:
        events: list[AppEvent] = []

        async def follow() -> None:
            async for event in client.watch("digits"):
                events.append(event)
                if event.deleted:
                    return

        following = asyncio.create_task(follow())
        await client.deploy(app, wait=True, timeout_s=60)
        await until(lambda: "READY" in {event.status.phase for event in events}, what="the watch has begun")
        await client.delete(app, wait=True, timeout_s=60)
        await asyncio.wait_for(following, 60)
    assert events[-1].deleted
    assert {event.status.name for event in events} == {"digits"}


async def test_nobody_there_is_said_in_time(mesh: Mesh, etcd: EtcdCluster) -> None:
    async with AsyncMeshClient(mesh.connection) as client:
        told = ""
        while "no keeper is registered in etcd at 127.0.0.1:" not in told:  # again while a busy machine hides etcd
            started = time.monotonic()
            with pytest.raises(Unavailable) as caught:
                await client.status("digits", timeout_s=3)
            told = str(caught.value)
            assert time.monotonic() - started < 30
        assert "; is the mesh up" in told
        etcd.kill()
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match="no keeper can be found"):
            await client.status("digits", timeout_s=3)
        assert time.monotonic() - started < 30


async def test_interceptors_see_and_change_calls(mesh: Mesh) -> None:
    mesh.start_keeper("k1")
    seen: list[str] = []

    async def outer(call: Any, proceed: Any) -> Any:
        seen.append(f"outer {type(call).__name__}")
        return await proceed(call)

    async def inner(call: Any, proceed: Any) -> Any:
        seen.append("inner")
        return await proceed(replace(call, namespace="other"))

    async with AsyncMeshClient(mesh.connection, interceptors=[outer, inner]) as client:
        assert await client.list("default", timeout_s=60) == ()
    assert seen == ["outer ListCall", "inner"]


async def test_blocking_client_inside_a_running_loop(mesh: Mesh) -> None:
    """As in a notebook: this thread has a loop that runs."""
    mesh.start_keeper("k1")
    said: list[str] = []
    with MeshClient(mesh.connection) as client:
        assert client.list(timeout_s=60) == ()
        while not any("revision 1 stored" in sentence for sentence in said):
            with pytest.raises((DeadlineExceeded, Unavailable)):
                client.deploy(application(mesh.folder), wait=True, timeout_s=5, on_progress=said.append)
        assert client.status("digits").revision == 1
        events = client.watch()
        assert next(events).status.name == "digits"
        events.close()  # type: ignore[attr-defined]
    with pytest.raises(FailedPrecondition, match="closed"):
        client.list()
    client.close()
