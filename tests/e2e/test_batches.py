"""Files of requests as users send them: OpenAI's client at the gateway of a mesh whose runner is deployed and dies."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import openai
import pytest
from openai.types import Batch

from serving import Application, BatchDeployment, LlmDeployment, MeshClient, Resources
from serving.errors import NotFound
from serving.local.state import load_state
from serving.types import ROLE_RUNNER
from tests.support.batch_world import CHAT, ENDED, chat_lines
from tests.support.mesh import ROOT, RunningMesh
from tests.support.waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
APP = "offline"
SMALL = Resources(cpus=0.1)
LINES = 1000


@pytest.fixture(scope="module")
def deployed(mesh: RunningMesh) -> Iterator[MeshClient]:
    weights = ROOT / "examples" / "chat" / "model"
    options = {"threads": 1, "cache_mb": 64}
    chat = LlmDeployment("chat", weights, model="tiny-chat", options=options, resources=SMALL)
    runner = BatchDeployment("batches", concurrency=2, resources=SMALL)
    with MeshClient(mesh.connection) as client:
        client.deploy(Application(APP, [chat, runner]), wait=True, timeout_s=240)
        yield client
        client.delete(APP, wait=True)


@pytest.fixture
def gateway(mesh: RunningMesh, deployed: MeshClient) -> Iterator[openai.OpenAI]:
    assert deployed.endpoints(APP, role=ROLE_RUNNER)
    url = f"http://{load_state(mesh.mesh_dir).gateway}/v1"
    with openai.OpenAI(base_url=url, api_key="none", timeout=60) as client:
        yield client


def test_a_batch_outlives_its_runner(gateway: openai.OpenAI, deployed: MeshClient) -> None:
    questions = [f"What is {number} plus {number % 9}?" for number in range(LINES)]
    data = chat_lines(questions, max_tokens=30, ignore_eos=True)
    file = gateway.files.create(file=("questions.jsonl", data), purpose="batch")
    order = gateway.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")

    def begun() -> Batch | None:
        now = gateway.batches.retrieve(order.id)
        return now if now.request_counts and now.request_counts.completed else None

    eventually(begun, timeout_s=240, what="some lines are done")
    (runner,) = deployed.endpoints(APP, role=ROLE_RUNNER)
    os.kill(runner.pid, signal.SIGKILL)

    def ended() -> Batch | None:
        now = gateway.batches.retrieve(order.id)
        return now if now.status in ENDED else None

    batch = eventually(ended, timeout_s=500, what="the batch ends")
    assert batch is not None
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert batch.request_counts.completed == LINES
    assert batch.output_file_id
    answers = [json.loads(line) for line in gateway.files.content(batch.output_file_id).text.splitlines()]
    assert [one["custom_id"] for one in answers] == [str(number) for number in range(LINES)]
    used = [one["response"]["body"]["usage"] for one in answers]
    assert batch.usage is not None
    assert batch.usage.output_tokens == sum(one["completion_tokens"] for one in used)


def test_a_batch_of_its_own_application_outlives_its_keeper(
    gateway: openai.OpenAI, deployed: MeshClient, mesh: RunningMesh
) -> None:
    """The keeper is killed as the order is taken: between the two the application is made, or not yet."""
    questions = [f"What is {number} plus {number % 7}?" for number in range(100)]
    file = gateway.files.create(file=("own.jsonl", chat_lines(questions)), purpose="batch")
    wish = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "1h", "extra_body": {"mode": "own"}}
    order = gateway.batches.create(**wish)  # type: ignore[call-overload]
    killed = mesh.kill("keeper-0")
    mesh.wait_replaced(killed)
    seen: set[str] = set()

    def ended() -> Batch | None:
        now = gateway.batches.retrieve(order.id)
        name = getattr(now, "application", None)
        if name:
            seen.update(one.id for one in deployed.endpoints(name, role=ROLE_RUNNER))
        return now if now.status in ENDED else None

    batch = eventually(ended, timeout_s=400, what="the batch ends")
    assert batch is not None
    assert (batch.status, batch.request_counts and batch.request_counts.completed) == ("completed", len(questions))
    assert len(seen) == 1  # a runner that was made for it
    name = batch.application  # type: ignore[attr-defined]

    def gone() -> bool:
        try:
            deployed.status(name)
        except NotFound:
            return True
        return False

    eventually(gone, timeout_s=200, what="its application is gone")
