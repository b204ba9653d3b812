"""A deployment that runs only while its broker has something for it: from none, to several, to none."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving import Application, Autoscaling, BrokerDeployment, MeshClient, PythonDeployment, Replicas, Resources
from serving.errors import MeshError
from serving.sdk.blocking_queue import BlockingTicket
from tests.support.broker_serving import go, told
from tests.support.mesh import ROOT, RunningMesh
from tests.support.waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
APP = "asleep"
SMALL = Resources(cpus=0.1)
RESULT_S = 180.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where replicas note what they run."""
    return tmp_path


@pytest.fixture
def scaled(mesh: RunningMesh, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshClient]:
    source = tmp_path_factory.mktemp("source")
    shutil.copy(ROOT / "tests" / "support" / "queued_work.py", source)
    by_queue = Autoscaling(target_ongoing=2, window=2, down_delay=3)
    worker = PythonDeployment(
        "worker",
        entry="queued_work:Worker",
        code=source,
        args={"folder": str(folder)},
        resources=SMALL,
        replicas=Replicas(0, 2),
        drain_timeout=3,
        autoscaling=by_queue,
    )
    with MeshClient(mesh.connection) as client:
        client.deploy(Application(APP, [worker, BrokerDeployment("queue", resources=SMALL)]), wait=True, timeout_s=240)
        yield client
        if APP in {one.name for one in client.list()}:
            client.delete(APP, wait=True)


def submit(client: MeshClient, number: int, do: str = "") -> BlockingTicket:
    return client.submit(APP, "worker", {"n": np.array([number])}, parameters={"do": do})


def doubled(ticket: BlockingTicket) -> int:
    return int(ticket.result(timeout_s=RESULT_S)["doubled"][0])


def sizes(client: MeshClient) -> tuple[int, int]:
    """Of the workers: how many are wanted, and how many there are."""
    (found,) = (one for one in client.status(APP).deployments if one.name == "worker")
    return found.wanted, found.ready


def test_the_queue_wakes_replicas_and_they_go_when_it_is_empty(
    mesh: RunningMesh, scaled: MeshClient, folder: Path
) -> None:
    eventually(lambda: sizes(scaled) == (0, 0), timeout_s=120, what="none")
    first = submit(scaled, 100)
    assert doubled(first) == 200
    eventually(lambda: sizes(scaled) == (0, 0), timeout_s=120, what="none again")

    held = [submit(scaled, number, "wait") for number in range(12)]
    eventually(lambda: sizes(scaled) == (2, 2), timeout_s=120, what="two")
    eventually(lambda: len(told(folder)) > 2, timeout_s=60, what="work")
    go(folder)
    assert [doubled(ticket) for ticket in held] == [2 * number for number in range(12)]
    eventually(lambda: sizes(scaled) == (0, 0), timeout_s=120, what="none at the end")
    with pytest.raises(MeshError):
        scaled.infer(APP, "worker", {"n": np.array([1])}, timeout_s=2)
    ended = [line for line in told(folder) if line.startswith("ended")]
    assert len(ended) == len(set(ended)) == 13

    assert journals(mesh) == 1, "what has ended is kept for whoever fetches it"
    (folder / "go").unlink()
    submit(scaled, 1000, "wait")
    told_then = mesh_command(mesh, "delete", APP, "--queues", "--json")
    assert told_then["queues"] == {"live": 1, "dead": 0, "removed": True, "unknown": ""}
    assert journals(mesh) == 0


def journals(mesh: RunningMesh) -> int:
    return sum(one["application"] == APP for one in mesh_command(mesh, "queue", "journals", "--json")["journals"])


def mesh_command(mesh: RunningMesh, *words: str) -> Any:
    command = [sys.executable, "-m", "serving.cli", *words, "--dir", str(mesh.mesh_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(done.stdout)
