"""An application's life on a real cluster: start, requests, rollout, scaling, bad revisions, deletion."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from tritonclient.utils import InferenceServerException

from serving._proto import records_pb2 as pb
from serving.local.ray_cluster import RayCluster
from serving.store import keys
from serving.store.records import decode
from tests.integration.master.small_mesh import Keeper, SmallMesh, classify, spec, until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

IMAGES = load_digits().data.astype(np.float32)[:32]


def condition(status: pb.ApplicationStatus, kind: str) -> pb.Condition:
    return next(found for found in status.conditions if found.type == kind)


def ready_ids(status: pb.ApplicationStatus) -> set[str]:
    return {row.id for row in status.deployments[0].replicas if row.state == pb.REPLICA_READY}


async def test_a_placed_application_serves_and_its_status_says_where(mesh: SmallMesh, keeper: Keeper) -> None:
    wanted = spec(keeper.app, mesh.repository(), replicas=2)
    wanted.deployments[0].env["MESH_TEST"] = "seen"
    await keeper.place(wanted)
    status = await keeper.wait_ready()
    assert (status.serving_revision, status.generation, status.cluster) == (1, 1, "east")
    assert all(found.status for found in status.conditions)
    assert ready_ids(status) == {"digits-r1-0", "digits-r1-1"}
    endpoints = await keeper.endpoints()
    assert set(endpoints) == ready_ids(status)
    answers = []
    for row in status.deployments[0].replicas:
        endpoint = endpoints[row.id][0]
        assert (endpoint.address, endpoint.pid) == (row.address, row.pid)
        assert "MESH_TEST=seen" in environment(row.pid)
        answers.append(await classify(endpoint.address, IMAGES))
    assert np.array_equal(answers[0], answers[1])


async def test_a_rollout_keeps_serving(mesh: SmallMesh, keeper: Keeper) -> None:
    await keeper.place(spec(keeper.app, mesh.repository(), replicas=2))
    await keeper.wait_ready()
    failed, served, stop = 0, 0, asyncio.Event()

    async def client() -> None:
        nonlocal failed, served
        while not stop.is_set():
            endpoints = [found for found, _ in (await keeper.endpoints()).values() if found.state == "ready"]
            failed += not endpoints
            for endpoint in endpoints:
                try:
                    await classify(endpoint.address, IMAGES[:1])
                    served += 1
                except InferenceServerException:
                    now = await keeper.endpoints()  # one that left discovery meanwhile is retried elsewhere
                    failed += endpoint.id in now and now[endpoint.id][0].state == "ready"

    traffic = asyncio.create_task(client())
    try:
        changed = spec(keeper.app, mesh.repository(), replicas=2)
        changed.deployments[0].env["VERSION"] = "2"
        await keeper.place(changed)
        status = await keeper.wait_ready()
    finally:
        stop.set()
        await traffic
    assert failed == 0
    assert served > 0
    assert ready_ids(status) == {"digits-r2-0", "digits-r2-1"}
    assert status.serving_revision == 2


async def test_scaling_leaves_what_runs_alone(mesh: SmallMesh, keeper: Keeper) -> None:
    artifact = mesh.repository()
    await keeper.place(spec(keeper.app, artifact, replicas=1))
    before = await keeper.wait_ready()
    await keeper.place(spec(keeper.app, artifact, replicas=2))
    after = await keeper.wait_ready()
    assert ready_ids(before) < ready_ids(after)
    pids = {row.id: row.pid for row in after.deployments[0].replicas}
    assert pids["digits-r1-0"] == before.deployments[0].replicas[0].pid
    assert after.serving_revision == 2
    await keeper.place(spec(keeper.app, artifact, replicas=1))
    final = await keeper.wait_status(lambda status: status.revision == 3 and len(status.deployments[0].replicas) == 1)
    assert final.phase == pb.READY


@pytest.mark.parametrize("kind", ["dims", "missing", "artifact"])
async def test_a_spec_that_cannot_work_says_why(mesh: SmallMesh, keeper: Keeper, kind: str) -> None:
    wanted = spec(keeper.app, broken(mesh, kind))
    await keeper.place(wanted)
    status = await keeper.wait_status(lambda status: status.phase == pb.FAILED)
    reason = status.deployments[0].reason
    assert {"dims": "config says [-1,63]", "missing": "model.onnx", "artifact": "artifact"}[kind] in reason, reason
    assert reason in status.message or status.message.startswith("digits: ")
    assert status.serving_revision == 0
    assert status.deployments[0].HasField("retry_at")
    first = status.deployments[0].retry_at.ToNanoseconds()
    later = await keeper.wait_status(lambda status: status.deployments[0].retry_at.ToNanoseconds() > first)
    assert later.phase == pb.FAILED, "a crash loop backs off and goes on"


async def test_a_revision_that_cannot_work_leaves_the_old_one_serving(mesh: SmallMesh, keeper: Keeper) -> None:
    await keeper.place(spec(keeper.app, mesh.repository(), replicas=2))
    good = await keeper.wait_ready()
    await keeper.place(spec(keeper.app, broken(mesh, "dims"), replicas=2))
    status = await keeper.wait_status(lambda status: status.phase == pb.DEGRADED)
    assert ready_ids(status) == ready_ids(good)
    assert (status.revision, status.serving_revision) == (2, 1)
    serving = condition(status, "RevisionServing")
    assert not serving.status
    assert "config says [-1,63]" in serving.message
    for endpoint, _ in (await keeper.endpoints()).values():
        assert len(await classify(endpoint.address, IMAGES)) == len(IMAGES)
    await keeper.place(spec(keeper.app, mesh.repository(), replicas=2))
    status = await keeper.wait_ready()
    assert status.serving_revision in (1, 3)  # the same content as revision 1: its replicas may stay


async def test_resources_that_nobody_has_are_waited_for(mesh: SmallMesh, keeper: Keeper) -> None:
    wanted = spec(keeper.app, mesh.repository())
    wanted.deployments[0].resources.custom["npu"] = 5.0
    await keeper.place(wanted)
    status = await keeper.wait_status(lambda status: "5 npu" in status.message)
    assert status.phase == pb.STARTING
    assert status.deployments[0].replicas[0].state == pb.REPLICA_PENDING

    async def reported() -> bool:
        kv = await keeper.client.get(keys.cluster("east"))
        return kv is not None and decode(pb.ClusterRecord, kv.value).pending.custom["npu"] == 5.0

    await until(reported)


async def test_a_deleted_application_leaves_nothing_behind(mesh: SmallMesh, keeper: Keeper) -> None:
    await keeper.place(spec(keeper.app, mesh.repository(), replicas=2))
    status = await keeper.wait_ready()
    pids = [row.pid for row in status.deployments[0].replicas]
    await keeper.delete()
    await keeper.wait_gone()

    async def ended() -> bool:
        return not any(running(pid) for pid in pids) and not await masters(mesh.ray, keeper)

    await until(ended)


def environment(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/environ").read_text().split("\0")


def running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def masters(cluster: RayCluster, keeper: Keeper) -> list[str]:
    kv = await keeper.client.get(keys.cluster(cluster.name))
    return [name for name in decode(pb.ClusterRecord, kv.value).masters if name == str(keeper.app)] if kv else []


def broken(mesh: SmallMesh, kind: str) -> pb.Artifact:
    def wrong_dims(folder: Path) -> None:
        config = folder / "digits" / "config.pbtxt"
        config.write_text(config.read_text().replace("dims: [ 64 ]", "dims: [ 63 ]"))

    def no_file(folder: Path) -> None:
        (folder / "digits" / "1" / "model.onnx").unlink()
        (folder / "digits" / "1" / "notes.txt").write_text("the model was to be here")

    def unlike_any_other(folder: Path) -> None:
        (folder / "digits" / "1" / "notes.txt").write_text("so that no node has it in its cache")

    changes = {"dims": wrong_dims, "missing": no_file, "artifact": unlike_any_other}
    artifact = mesh.repository(changes[kind])
    if kind == "artifact":
        artifact.uri = artifact.uri.replace("sha256", "gone").replace(".tar", "-gone.tar")
    return artifact
