"""An application with proxies and rollouts as its users see them: command line, SDK, plain clients."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from examples.digits.data import load_split
from serving import Application, MeshClient, ProxyDeployment, Replicas, Resources, Rollout, TritonDeployment
from serving.sdk import AppStatus, ClientConfig
from tests.support.mesh import DIGITS, ROOT, RunningMesh, expected_classes
from tests.support.traffic import Traffic
from tests.support.waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

IMAGES = load_split().held_out_images[:8]


def application(
    name: str, repository: Path, *, version: str = "1", rollout: Rollout | None = None, on_failed: str = "stop"
) -> Application:
    """Two replicas of digits behind two proxies."""
    small, two = Resources(cpus=0.1), Replicas(2)
    replicas = TritonDeployment(
        "digits", repository, resources=small, replicas=two, env={"V": version}, rollout=rollout or Rollout()
    )
    return Application(
        name, [replicas, ProxyDeployment("grpc", resources=small, replicas=two)], on_failed_rollout=on_failed
    )


@pytest.fixture
def name(client: MeshClient) -> Iterator[str]:
    chosen = f"proxied-{uuid.uuid4().hex[:8]}"
    yield chosen
    if any(status.name == chosen for status in client.list()):
        client.delete(chosen, wait=True)


def mesh_command(mesh: RunningMesh, *words: str) -> str:
    command = [sys.executable, "-m", "serving.cli", *words, "--dir", str(mesh.mesh_dir)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_plain_clients_the_sdk_and_the_command_line_go_through_proxies(
    mesh: RunningMesh, client: MeshClient, name: str, tmp_path: Path
) -> None:
    client.deploy(application(name, DIGITS.parent / "models"), wait=True, timeout_s=180)
    eventually(lambda: len(client.endpoints(name, role="proxy")) == 2, timeout_s=90, what="two proxies")
    tensor = triton.InferInput("image", list(IMAGES.shape), "FP32")
    tensor.set_data_from_numpy(IMAGES)
    for endpoint in client.endpoints(name, role="proxy"):
        with triton.InferenceServerClient(endpoint.address) as plain:
            answer = plain.infer("digits", [tensor]).as_numpy("probabilities")
            assert answer is not None
            assert list(answer.argmax(axis=1)) == expected_classes()[: len(IMAGES)]
    np.save(tmp_path / "images.npy", IMAGES)
    words = ("infer", name, "digits", "--input", str(tmp_path / "images.npy"), "--via", "proxy", "--json")
    shown = json.loads(mesh_command(mesh, *words))
    assert np.array(shown["outputs"]["probabilities"]["data"]).argmax(axis=1).tolist() == expected_classes()[:8]
    listed = json.loads(mesh_command(mesh, "endpoints", name, "--role", "proxy", "--json"))["endpoints"]
    assert {(item["deployment"], item["role"]) for item in listed} == {("grpc", "proxy")}
    with MeshClient(mesh.connection, client_config=ClientConfig(via="proxy")) as proxied:
        metadata = proxied.model_metadata(name, "digits", deployment="digits")
        assert [one.name for one in metadata.inputs] == ["image"]


def test_no_request_is_lost_through_proxies_while_replicas_and_proxies_die(
    mesh: RunningMesh, client: MeshClient, name: str
) -> None:
    client.deploy(application(name, DIGITS.parent / "models"), wait=True, timeout_s=180)
    eventually(lambda: len(client.endpoints(name, role="proxy")) == 2, timeout_s=90, what="two proxies")
    with Traffic(mesh.connection, expected_classes(), application=name, via="proxy") as traffic:
        for role in ("direct", "proxy", "direct", "proxy"):
            victim = client.endpoints(name, role=role)[0]
            os.kill(victim.pid, signal.SIGKILL)

            def back(role: str = role, dead: int = victim.pid) -> bool:
                listed = client.endpoints(name, role=role)
                return len(listed) == 2 and all(found.pid != dead for found in listed)

            eventually(back, timeout_s=120, what=f"{victim.id} again")
            traffic.wait_for(20)
    traffic.check()


def test_a_pause_holds_a_rollout_and_undo_takes_it_back(mesh: RunningMesh, client: MeshClient, name: str) -> None:
    models = DIGITS.parent / "models"
    client.deploy(application(name, models), wait=True, timeout_s=180)
    assert client.pause_rollout(name)
    client.deploy(application(name, models, version="2"))

    def paused() -> AppStatus | None:
        status = client.status(name)
        return status if status.revision == 2 and "the rollout is paused" in status.message else None

    eventually(paused, timeout_s=60, what="a paused rollout")
    assert {found.revision for found in client.endpoints(name)} == {1}
    shown = json.loads(mesh_command(mesh, "rollout", "status", name, "--json"))
    assert (shown["paused"], shown["deployments"][0]["new"], shown["deployments"][0]["old"]) == (True, 0, 2)
    mesh_command(mesh, "rollout", "resume", name)
    eventually(lambda: client.status(name).ready, timeout_s=120, what="revision 2 ready")
    eventually(
        lambda: {found.revision for found in client.endpoints(name)} == {2}, timeout_s=60, what="only revision 2"
    )
    mesh_command(mesh, "rollout", "undo", name)
    status = client.status(name)
    assert (status.revision, status.phase) == (3, "READY")
    assert next((one.revision, one.note) for one in client.revisions(name)) == (3, "rollback to revision 1")


def test_a_revision_that_cannot_start_is_taken_back_by_itself(
    mesh: RunningMesh, client: MeshClient, name: str, tmp_path: Path
) -> None:
    good = DIGITS.parent / "models"
    client.deploy(application(name, good, on_failed="rollback"), wait=True, timeout_s=180)
    broken = tmp_path / "models"
    shutil.copytree(good, broken)
    (broken / "digits" / "1" / "model.onnx").write_bytes(b"no model")
    with Traffic(mesh.connection, expected_classes(), application=name) as traffic:
        client.deploy(application(name, broken, on_failed="rollback"))
        eventually(lambda: client.status(name).revision == 3, timeout_s=240, what="an automatic rollback")
        eventually(lambda: client.status(name).ready, timeout_s=120, what="revision 3 ready")
    traffic.check()
    newest = client.revisions(name)[0]
    assert newest.author == "keeper"
    assert newest.note.startswith("automatic rollback to revision 1: digits: ")
    assert "model.onnx" in newest.note
