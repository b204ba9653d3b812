"""Requests that wait, as users deploy brokers: a class of theirs and a language model in one application."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from serving import (
    Application,
    BrokerCallbacks,
    BrokerDeployment,
    LlmDeployment,
    MeshClient,
    PythonDeployment,
    Resources,
)
from serving._proto import records_pb2 as pb
from serving.errors import Cancelled
from serving.sdk.blocking_queue import BlockingTicket
from serving.types import ROLE_BROKER
from tests.support.broker_serving import go, told
from tests.support.callers import Callers
from tests.support.llm_serving import GatewayProcess
from tests.support.mesh import ROOT, RunningMesh
from tests.support.receiver import Receiver
from tests.support.waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
APP = "queued"
SMALL = Resources(cpus=0.1)
RESULT_S = 180.0
QUESTION = [{"role": "user", "content": "What is the capital of Japan?"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where replicas note what they run."""
    return Path(tmp_path_factory.mktemp("queued"))


@pytest.fixture(scope="module")
def application(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Application:
    source = tmp_path_factory.mktemp("source")
    shutil.copy(ROOT / "tests" / "support" / "queued_work.py", source)
    worker = PythonDeployment(
        "worker", entry="queued_work:Worker", code=source, args={"folder": str(folder)}, resources=SMALL
    )
    chat = LlmDeployment(
        "chat",
        ROOT / "examples" / "chat" / "model",
        model="tiny-chat",
        options={"threads": 1, "cache_mb": 64},
        resources=SMALL,
    )
    callbacks = BrokerCallbacks(networks=["127.0.0.0/8"], allow_http=True)
    return Application(APP, [worker, chat, BrokerDeployment("queue", lease=60, resources=SMALL, callbacks=callbacks)])


@pytest.fixture(scope="module")
def queued(mesh: RunningMesh, application: Application) -> Iterator[MeshClient]:
    with MeshClient(mesh.connection) as client:
        client.deploy(application, wait=True, timeout_s=240)
        yield client
        client.delete(APP, wait=True)


@pytest.fixture(autouse=True)
def fresh(folder: Path) -> None:
    """What waits in replicas waits again, and nothing was noted yet."""
    for name in ("go", "runs"):
        (folder / name).unlink(missing_ok=True)


def submit(client: MeshClient, number: int, do: str = "", **options: Any) -> BlockingTicket:
    return client.submit(APP, "worker", {"n": np.array([number])}, parameters={"do": do}, **options)  # type: ignore[arg-type]


def doubled(ticket: BlockingTicket) -> int:
    return int(ticket.result(timeout_s=RESULT_S)["doubled"][0])


def one_endpoint(client: MeshClient, deployment: str, role: str = "direct") -> pb.Endpoint:
    (found,) = (one for one in client.endpoints(APP, role=role) if one.deployment == deployment)
    return found


def killed(client: MeshClient, deployment: str, role: str = "direct") -> None:
    os.kill(one_endpoint(client, deployment, role).pid, signal.SIGKILL)


def noted(folder: Path, line: str) -> None:
    eventually(lambda: line in told(folder), timeout_s=60, what=line)


def test_both_kinds_answer(queued: MeshClient) -> None:
    ticket = submit(queued, 4)
    body = {"model": "tiny-chat", "messages": QUESTION, "temperature": 0}
    chat = queued.submit(APP, "chat", body=body)
    assert doubled(ticket) == 8
    answer = chat.result(timeout_s=RESULT_S)
    assert "Tokyo" in answer["choices"][0]["message"]["content"]

    streamed = queued.submit(APP, "chat", body={**body, "stream": True})
    events = [event for part in streamed for event in part.events()]
    text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"])
    assert text == answer["choices"][0]["message"]["content"]
    assert streamed.result(timeout_s=RESULT_S).endswith("data: [DONE]\n\n")
    assert {one.deployment for one in queued.queue.statistics(APP)} >= {"worker", "chat"}


def test_a_receiver_is_told_of_an_end(queued: MeshClient) -> None:
    async def told_of() -> dict[str, Any]:
        async with Receiver() as receiver:
            await asyncio.to_thread(submit, queued, 8, callback=receiver.url())
            (one,) = await receiver.told()
            return one.data

    data = asyncio.run(told_of())
    assert (data["application"], data["deployment"], data["state"]) == (f"default/{APP}", "worker", "SUCCEEDED")
    values = {output["name"]: output["data"] for output in data["result"]["infer"]["outputs"]}
    assert values["doubled"] == [16]


def test_a_cancelled_item_stops_in_its_replica(queued: MeshClient, folder: Path) -> None:
    ticket = submit(queued, 1, "wait")
    noted(folder, "began 1")
    ticket.cancel()
    noted(folder, "stopped 1")
    with pytest.raises(Cancelled):
        ticket.result(timeout_s=RESULT_S)


def test_a_killed_replica(queued: MeshClient, folder: Path) -> None:
    ticket = submit(queued, 2, "wait")
    noted(folder, "began 2")
    killed(queued, "worker")
    go(folder)
    assert doubled(ticket) == 4
    assert told(folder) == ["began 2", "began 2", "ended 2"]


def test_a_killed_broker(queued: MeshClient, folder: Path) -> None:
    tickets = [submit(queued, number, "wait") for number in range(200)]
    noted(folder, "began 0")
    killed(queued, "queue", ROLE_BROKER)
    tickets += [submit(queued, number) for number in range(200, 210)]
    go(folder)
    assert [doubled(ticket) for ticket in tickets] == [2 * number for number in range(210)]
    ended = [line for line in told(folder) if line.startswith("ended")]
    assert len(ended) == len(set(ended)) == 210


class Submitting(Callers):
    """Threads that submit all the time; `tickets` are those that they got, `wrong` what went wrong."""

    def __init__(self, mesh: RunningMesh, threads: int) -> None:
        super().__init__(threads)
        self._mesh = mesh
        self.tickets: list[BlockingTicket] = []
        self.wrong: list[str] = []
        self.client = MeshClient(mesh.connection)

    def call(self, number: int) -> None:
        while not self.over.is_set():
            try:
                ticket = submit(self.client, number, timeout_s=60)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is wrong
                with self.lock:
                    self.wrong.append(repr(error))
                continue
            with self.lock:
                self.tickets.append(ticket)


def test_an_update_of_everything_under_submits(
    mesh: RunningMesh, queued: MeshClient, application: Application, folder: Path
) -> None:
    """Another revision of the broker, then of the class: no submit fails, no item is lost, each runs once."""
    worker, chat, queue = application.deployments
    with Submitting(mesh, 2) as submitting:
        for changed in (
            [worker, chat, replace(queue, max_attempts=4)],
            [replace(worker, max_requests=99), chat, replace(queue, max_attempts=4)],
        ):
            before = len(submitting.tickets)
            eventually(lambda least=before + 20: len(submitting.tickets) > least, timeout_s=60, what="submits")  # type: ignore[misc]
            queued.deploy(replace(application, deployments=changed), wait=True, timeout_s=240)
        after = len(submitting.tickets)
        eventually(lambda: len(submitting.tickets) > after + 20, timeout_s=60, what="submits afterwards")
    assert submitting.wrong == []
    for ticket in submitting.tickets:
        doubled(ticket)
    ended = [line for line in told(folder) if line.startswith("ended")]
    assert len(ended) == len(submitting.tickets)
    submitting.client.close()


def test_unchanged_clients_go_through_the_broker(
    mesh: RunningMesh, queued: MeshClient, application: Application, tmp_path: Path
) -> None:
    """`dispatch: pull` replaces the broker, and no replica of the class."""
    worker, chat, queue = application.deployments
    queued.deploy(application, wait=True, timeout_s=240)
    before = one_endpoint(queued, "worker").pid
    queued.deploy(
        replace(application, deployments=[replace(worker, dispatch="pull"), chat, queue]), wait=True, timeout_s=240
    )
    assert one_endpoint(queued, "worker").pid == before
    assert list(one_endpoint(queued, "queue", ROLE_BROKER).pulled) == ["worker"]
    tensors = {"inputs": [{"name": "n", "datatype": "INT64", "shape": [1], "data": [21]}]}
    gateway = GatewayProcess(tmp_path, mesh.connection.etcd, leave_s=0.0)
    try:
        answer = httpx.post(f"{gateway.url}/v2/models/{APP}/worker/infer", json=tensors, timeout=60)
        assert answer.status_code == 200, answer.text
        assert {one["name"]: one["data"] for one in answer.json()["outputs"]}["doubled"] == [42]
        assert "mesh_gateway_pulled_total 1.0" in httpx.get(f"{gateway.url}/metrics").text
    finally:
        gateway.end()
