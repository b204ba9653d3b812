"""Applications of Ray Serve that a master deploys: asked over HTTP and gRPC where discovery says that they are."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import urllib.request
from pathlib import Path

import pytest

from serving._proto import records_pb2 as pb
from serving.deployment.artifact_archive import pack
from serving.sdk import Artifact, load_spec
from tests.integration.master.small_mesh import ROOT, Keeper, SmallMesh, until
from tests.integration.master.test_proxies import row_of
from tests.integration.master.test_python_deployments import wheel
from tests.integration.serve_deployment.apps import application, served
from tests.integration.serve_deployment.asking import (
    Asking,
    applications,
    entry_point,
    over_grpc,
    over_http,
    processes,
)

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


async def test_it_answers_over_http_and_grpc(mesh: SmallMesh, keeper: Keeper) -> None:
    await keeper.place(application(keeper, served(mesh, args={"factor": 3, "word": "hi"}, env={"GREETING": "hello"})))
    row = row_of(await keeper.wait_ready(), "web-r1-0")
    http, rpc = await entry_point(keeper, "http"), await entry_point(keeper, "serve-grpc")
    assert (http.id, http.replica, rpc.replica, http.role) == ("web-r1-0", "web-r1-0", "web-r1-0", "direct")
    assert (row.address, row.pid) == (http.address, http.pid)
    assert await over_http(http, "/scaled/5") == {"answer": 15, "word": "hi"}
    assert (await over_http(http, "/about"))["greeting"] == "hello"
    assert await over_grpc(rpc, 7) == ("hi", 21)


async def test_a_new_revision_takes_over_and_clients_see_nothing(mesh: SmallMesh, keeper: Keeper) -> None:
    await keeper.place(application(keeper, served(mesh, args={"word": "old"})))
    await keeper.wait_ready()
    before = await entry_point(keeper, "http")
    async with Asking(keeper) as asking:
        await keeper.place(application(keeper, served(mesh, args={"word": "new"})))
        await entry_point(keeper, "http", lambda found: found.revision == 2)
        slow = asyncio.create_task(over_http(before, "/slow"))  # by a client that does not follow discovery
        await keeper.wait_ready()
        await asking.wait_for(10, "new")
        assert await slow == {"word": "old"}
    assert asking.failed == []
    assert all(set(words) == {"old", "new"} for words in asking.words.values())
    assert set(await keeper.endpoints()) == {"web-r2-0", "web-r2-0-grpc"}
    after = await entry_point(keeper, "http")

    async def old_is_gone() -> bool:
        mine = {name for name in await applications(after) if f".{keeper.app.name}." in name}
        return mine == {after.labels["serve.application"]}

    await until(old_is_gone)


async def test_packages_are_there(mesh: SmallMesh, keeper: Keeper, tmp_path: Path) -> None:
    environment = pb.PythonEnvironment(pip=[str(wheel(tmp_path))])
    await keeper.place(application(keeper, served(mesh, runtime_env=environment)))
    await keeper.wait_ready()
    assert (await over_http(await entry_point(keeper, "http"), "/about"))["shipped"] == "installed by pip"


async def test_the_application_outlives_the_process_that_watches_it(mesh: SmallMesh, keeper: Keeper) -> None:
    await keeper.place(application(keeper, served(mesh)))
    await keeper.wait_ready()
    before = await entry_point(keeper, "http")
    user = (await over_http(before, "/about"))["pid"]
    (controller,) = processes(mesh, b"ray::ServeController")
    os.kill(before.pid, signal.SIGKILL)
    os.kill(controller, signal.SIGKILL)
    for _ in range(20):
        assert await over_http(before, "/scaled/1") == {"answer": 2, "word": "hello"}
    after = await entry_point(keeper, "http", lambda found: found.pid != before.pid)
    assert (after.address, after.labels) == (before.address, before.labels)
    assert (await over_http(after, "/about"))["pid"] == user


async def test_an_application_that_is_deleted_while_it_is_deployed_leaves_nothing(
    mesh: SmallMesh, keeper: Keeper
) -> None:
    other = served(mesh)
    other.name = "other"
    await keeper.place(application(keeper, other))
    await keeper.wait_ready()
    http = await entry_point(keeper, "http")
    await keeper.place(application(keeper, other, served(mesh, args={"word": "raises"})))

    async def deploying() -> bool:
        return "DEPLOYING" in str(await keeper.status())

    await until(deploying)
    await keeper.delete()
    await keeper.wait_gone()

    async def none_left() -> bool:
        return not {name for name in await applications(http) if f".{keeper.app.name}." in name}

    await until(none_left)


async def test_serve_heals_its_controller_and_its_replicas(mesh: SmallMesh, keeper: Keeper) -> None:
    await keeper.place(application(keeper, served(mesh)))
    status = await keeper.wait_ready()
    http = await entry_point(keeper, "http")
    user = (await over_http(http, "/about"))["pid"]
    (controller,) = processes(mesh, b"ray::ServeController")
    os.kill(controller, signal.SIGKILL)
    assert await over_http(http, "/scaled/1") == {"answer": 2, "word": "hello"}
    os.kill(user, signal.SIGKILL)

    async def healed() -> bool:
        try:
            return bool((await over_http(http, "/about"))["pid"] != user)
        except OSError:  # of the replica that was killed
            return False

    await until(healed)
    now = row_of(await keeper.wait_ready(), "web-r1-0")
    assert (now.pid, now.restarts) == (row_of(status, "web-r1-0").pid, 0)


async def test_nothing_is_left_of_a_replica_that_is_killed_for_good(mesh: SmallMesh, keeper: Keeper) -> None:
    """Whose process cannot take its application away."""
    wanted = served(mesh)
    wanted.max_restarts = 0
    await keeper.place(application(keeper, wanted))
    await keeper.wait_ready()
    before = await entry_point(keeper, "http")
    os.kill(before.pid, signal.SIGKILL)
    after = await entry_point(keeper, "http", lambda found: found.pid != before.pid)

    async def one_is_left() -> bool:
        mine = {name for name in await applications(after) if f".{keeper.app.name}." in name}
        return mine == {after.labels["serve.application"]} != {before.labels["serve.application"]}

    await until(one_is_left)
    assert (await over_http(after, "/scaled/1"))["answer"] == 2


async def test_the_example_says_how_easy_a_text_is(mesh: SmallMesh, keeper: Keeper) -> None:
    example = load_spec(ROOT / "examples" / "serve" / "app.yaml")
    packed = {folder: pack(folder, (mesh.directory / "artifacts").as_uri()) for folder in example.local_folders()}
    wanted = example.to_spec({path: Artifact(made.uri, made.digest, made.size_bytes) for path, made in packed.items()})
    wanted.namespace, wanted.name = keeper.app.namespace, keeper.app.name
    await keeper.place(wanted)
    await keeper.wait_ready()
    http = await entry_point(keeper, "http")
    assert "serve-grpc" not in {one.protocol for one, _ in (await keeper.endpoints()).values()}

    def ease(text: str) -> float:
        url = f"http://{http.address}{http.labels['serve.route_prefix']}/ease"
        request = urllib.request.Request(url, json.dumps({"text": text}).encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return float(json.load(answer)["ease"])

    easy = await asyncio.to_thread(ease, "The cat sat on the mat.")  # 6 words and 6 syllables in 1 sentence
    assert easy == pytest.approx(206.835 - 1.015 * 6 - 84.6, abs=0.01)
    assert await asyncio.to_thread(ease, "Considerable institutional complexity necessitates deliberation.") < 0
