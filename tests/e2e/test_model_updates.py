"""New models for an application that runs: loaded in place, under traffic, without a lost or a wrong answer."""

from __future__ import annotations

import os
import shutil
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.model_updates import write_model
from serving import Application, MeshClient, Replicas, Resources, TritonDeployment
from serving.sdk import AppStatus
from tests.support.callers import Callers
from tests.support.mesh import ROOT, RunningMesh
from tests.support.waiting import eventually

BUILD = Path(os.environ.get("MESH_BUILD_DIR", ROOT / "build" / "cmake"))
IDENTITY = BUILD / "test_backends" / "identity" / "libtriton_identity.so"

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def write_adder(repository: Path, number: int) -> Path:
    write_model(repository, number)
    return repository


def adder(name: str, repository: Path, *, replicas: int = 2, update: str = "in_place") -> Application:
    deployment = TritonDeployment(
        name="main", repository=repository, resources=Resources(cpus=0.1), replicas=Replicas(replicas), update=update
    )
    return Application(name=name, deployments=[deployment])


@pytest.fixture
def name(client: MeshClient) -> Iterator[str]:
    chosen = f"update-{uuid.uuid4().hex[:8]}"
    yield chosen
    if any(status.name == chosen for status in client.list()):
        client.delete(chosen, wait=True)


def ask(client: MeshClient, name: str) -> float:
    return float(client.infer(name, "adder", {"X": np.array([1000], np.float32)}, timeout_s=60)["Y"][0]) - 1000


class Traffic(Callers):
    """Asks all the time, from several threads, and keeps what was answered."""

    def __init__(self, mesh: RunningMesh, name: str, threads: int = 3) -> None:
        super().__init__(threads)
        self._mesh = mesh
        self._name = name
        self.answers: list[float] = []
        self.failures: list[BaseException] = []

    def call(self, number: int) -> None:  # noqa: ARG002 - all of them ask the same
        with MeshClient(self._mesh.connection) as client:
            while not self.over.is_set():
                try:
                    self.answers.append(ask(client, self._name))
                except Exception as error:  # noqa: BLE001 - the test says that there must be none
                    self.failures.append(error)


def processes(client: MeshClient, name: str) -> set[int]:
    return {replica.pid for deployment in client.status(name).deployments for replica in deployment.replicas}


def test_models_change_under_traffic_in_the_processes_that_run(
    mesh: RunningMesh, client: MeshClient, tmp_path: Path, name: str
) -> None:
    client.deploy(adder(name, write_adder(tmp_path, 0)), wait=True, timeout_s=150)
    before = processes(client, name)
    with Traffic(mesh, name) as traffic:
        eventually(lambda: len(traffic.answers) > 20, timeout_s=120, what="traffic")
        for number in range(1, 6):
            write_adder(tmp_path, number)
            client.deploy(adder(name, tmp_path), wait=True, timeout_s=150)
            at = len(traffic.answers)
            eventually(lambda at=at: len(traffic.answers) > at + 20, timeout_s=120, what="more traffic")
            late = set(traffic.answers[at + 5 :])  # what was on its way when the deployment was reported as done
            assert late == {number}, "every replica serves the new model when the deployment is done"
    assert traffic.failures == []
    assert set(traffic.answers) <= {float(number) for number in range(6)}
    assert processes(client, name) == before
    eventually(
        lambda: {endpoint.revision for endpoint in client.endpoints(name)} == {6},
        timeout_s=90,
        what="revision 6 in discovery",
    )


def test_a_model_that_cannot_be_loaded_changes_nothing(
    mesh: RunningMesh, client: MeshClient, tmp_path: Path, name: str
) -> None:
    client.deploy(adder(name, write_adder(tmp_path, 1)), wait=True, timeout_s=150)
    before = processes(client, name)
    (tmp_path / "adder" / "1" / "model.onnx").write_bytes(b"no model")
    with Traffic(mesh, name) as traffic:
        client.deploy(adder(name, tmp_path))

        def degraded() -> AppStatus | None:
            status = client.status(name)
            return status if status.phase == "DEGRADED" else None

        status = eventually(degraded, timeout_s=120, what="phase DEGRADED")
        assert (status.revision, status.serving_revision) == (2, 1)
        assert "adder" in status.message
        assert "model.onnx" in status.message
        write_adder(tmp_path, 3)
        client.deploy(adder(name, tmp_path), wait=True, timeout_s=150)
        assert ask(client, name) == 3
    assert traffic.failures == []
    assert set(traffic.answers) <= {1.0, 3.0}
    assert processes(client, name) == before


def write_deadly(repository: Path) -> None:
    """A model of the same name that ends every process that loads it; it brings its backend along."""
    folder = repository / "adder"
    shutil.copy(IDENTITY, folder / IDENTITY.name)
    (folder / "config.pbtxt").write_text(
        """backend: "identity"
        input [ { name: "X" data_type: TYPE_FP32 dims: [ 1 ] } ]
        output [ { name: "Y" data_type: TYPE_FP32 dims: [ 1 ] } ]
        parameters { key: "exit_at_load" value { string_value: "yes" } }"""
    )


def test_a_model_that_ends_its_process_does_it_once(
    mesh: RunningMesh, client: MeshClient, tmp_path: Path, name: str
) -> None:
    client.deploy(adder(name, write_adder(tmp_path, 1)), wait=True, timeout_s=150)
    before = processes(client, name)
    with Traffic(mesh, name) as traffic:
        write_deadly(tmp_path)
        client.deploy(adder(name, tmp_path))

        def degraded() -> AppStatus | None:
            status = client.status(name)
            return status if status.phase == "DEGRADED" and len(status.deployments[0].replicas) > 2 else None

        status = eventually(degraded, timeout_s=90, what="a new replica that tries, beside the old ones")
        assert (status.revision, status.serving_revision) == (2, 1)
        at = len(traffic.answers)
        eventually(lambda: len(traffic.answers) > at + 100, timeout_s=60, what="traffic that goes on")
        assert len(processes(client, name) & before) == 1, "the other replica was never asked to load it"
        shutil.rmtree(tmp_path / "adder")
        client.deploy(adder(name, write_adder(tmp_path, 3)), wait=True, timeout_s=150)
        assert ask(client, name) == 3
    assert traffic.failures == []
    assert set(traffic.answers) <= {1.0, 3.0}


def test_a_process_that_dies_comes_back_with_the_models_of_today(client: MeshClient, tmp_path: Path, name: str) -> None:
    client.deploy(adder(name, write_adder(tmp_path, 1), replicas=1), wait=True, timeout_s=150)
    write_adder(tmp_path, 2)
    client.deploy(adder(name, tmp_path, replicas=1), wait=True, timeout_s=150)
    (before,) = processes(client, name)
    os.kill(before, signal.SIGKILL)

    def back() -> bool:
        status = client.status(name)
        return status.ready and processes(client, name) != {before}

    eventually(back, timeout_s=120, what="READY with another process")
    eventually(lambda: ask(client, name) == 2, timeout_s=90, what="the models of revision 2")
    assert [replica.revision for replica in client.status(name).deployments[0].replicas] == [2]


def test_replace_starts_new_processes(client: MeshClient, tmp_path: Path, name: str) -> None:
    client.deploy(adder(name, write_adder(tmp_path, 1), replicas=1), wait=True, timeout_s=150)
    before = processes(client, name)
    write_adder(tmp_path, 2)
    client.deploy(adder(name, tmp_path, replicas=1, update="replace"), wait=True, timeout_s=150)
    eventually(lambda: ask(client, name) == 2, timeout_s=120, what="answers of the new process")
    eventually(lambda: not processes(client, name) & before, timeout_s=90, what="the end of the old process")
