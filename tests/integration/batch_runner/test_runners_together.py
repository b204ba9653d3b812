"""Two runners of one etcd: the batches of several tenants, of all endpoints, and what runners say of themselves."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.batch_world import BatchWorld, RunnerHandle, chat_lines, counts, request_lines, sums
from tests.support.llm_serving import EmbeddingProcess, embedding_config
from tests.support.mesh import ROOT
from tests.support.waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]
EMBEDDINGS = "/v1/embeddings"
RESPONSES = "/v1/responses"


@pytest.fixture(scope="module")
def runners(world: BatchWorld) -> Iterator[list[RunnerHandle]]:
    with ExitStack() as stack:
        yield [world.runner(f"runner-of-two-{number}", stack, concurrency=1) for number in range(2)]


def metrics_of(runner: RunnerHandle) -> str:
    with urllib.request.urlopen(f"http://{runner.report().metrics_address}/metrics", timeout=60) as answer:
        return str(answer.read().decode())


def values_of(text: str, name: str) -> dict[str, float]:
    """By label."""
    found = re.findall(rf'^{name}\{{\w+="(\w+)"\}} (\S+)$', text, re.MULTILINE)
    return {label: float(value) for label, value in found}


def claims_told(runners: list[RunnerHandle], batch_id: str) -> list[int]:
    """Epochs, of all runners."""
    told = (one for runner in runners for one in runner.log() if one["msg"] == "batch claimed")
    return sorted(one["epoch"] for one in told if one["batch"] == batch_id)


def test_tenants_are_shared_out_and_no_batch_runs_twice(world: BatchWorld, runners: list[RunnerHandle]) -> None:
    tenants = ("north", "south", "west")
    before = [len(runner.log()) for runner in runners]
    ordered = [(tenant, world.order_as(tenant, chat_lines(sums(40)))) for tenant in tenants for _ in range(4)]
    eventually(
        lambda: all(world.word(*one) == "completed" for one in ordered), timeout_s=600, what="all have been answered"
    )
    for tenant, batch_id in ordered:
        status = world.records(tenant, batch_id).status
        assert status is not None
        assert (status.completed, status.failed, status.attempts) == (40, 0, 0)
        epochs = claims_told(runners, batch_id)
        assert epochs == list(range(1, status.epoch + 1)), "each claim had the batch after the one before"
        computed = [lines for runner in runners for lines in runner.computed(batch_id)]
        assert len(computed) == len(epochs)
        assert sum(computed) == 40
    for runner, start in zip(runners, before, strict=True):
        assert any(one["msg"] == "batch claimed" for one in runner.log()[start:]), "both had a share"


def test_embeddings_and_responses_are_answered(world: BatchWorld, runners: list[RunnerHandle]) -> None:  # noqa: ARG001
    texts = [f"This is sentence {number}." for number in range(6)]
    with ExitStack() as stack:
        embedder = EmbeddingProcess(world.folder, embedding_config(etcd=world.etcd))
        stack.callback(embedder.end)
        embedder.wait_state("ready", registered=True, timeout_s=240)
        model = embedder.report.models[0].name
        bodies: list[dict[str, Any]] = [{"model": model, "input": text} for text in texts]
        bodies.append({"model": model, "input": texts[:2], "encoding_format": "base64"})
        embedded = world.ended(world.order(request_lines(EMBEDDINGS, bodies), endpoint=EMBEDDINGS))
    assert (embedded.status, embedded.endpoint, counts(embedded)) == ("completed", EMBEDDINGS, (7, 7, 0))
    answers = [one["response"]["body"] for one in world.lines(embedded.output_file_id)]
    assert [[row["index"] for row in one["data"]] for one in answers] == [[0]] * 6 + [[0, 1]]
    assert all(len(one["data"][0]["embedding"]) == 384 for one in answers[:6])
    assert isinstance(answers[6]["data"][0]["embedding"], str)
    assert embedded.usage is not None
    assert embedded.usage.input_tokens == sum(one["usage"]["prompt_tokens"] for one in answers)
    asked = [{"model": "tiny-chat", "input": text, "temperature": 0, "max_output_tokens": 20} for text in sums(5)]
    responded = world.ended(world.order(request_lines(RESPONSES, asked), endpoint=RESPONSES))
    assert (responded.status, counts(responded)) == ("completed", (5, 5, 0))
    told = [one["response"]["body"] for one in world.lines(responded.output_file_id)]
    assert [one["object"] for one in told] == ["response"] * 5
    assert "is" in told[3]["output"][0]["content"][0]["text"]
    assert responded.usage is not None
    assert responded.usage.output_tokens == sum(one["usage"]["output_tokens"] for one in told)


def test_metrics_are_scraped_as_the_guide_names_them(world: BatchWorld, runners: list[RunnerHandle]) -> None:
    before = [metrics_of(runner) for runner in runners]
    wrong = chat_lines(["And this?"], temperature=9.0).replace(b'"custom_id": "0"', b'"custom_id": "wrong"')
    batch = world.ended(world.order(chat_lines(sums(8)) + wrong))
    assert counts(batch) == (9, 8, 1)
    assert batch.usage is not None

    def grown(name: str, label: str) -> float:
        now = (values_of(metrics_of(runner), name).get(label, 0.0) for runner in runners)
        return sum(now) - sum(values_of(text, name).get(label, 0.0) for text in before)

    eventually(lambda: grown("mesh_batch_jobs_total", "done") == 1, timeout_s=60, what="it is counted")
    assert (grown("mesh_batch_lines_total", "completed"), grown("mesh_batch_lines_total", "failed")) == (8, 1)
    assert grown("mesh_batch_tokens_total", "prompt") == batch.usage.input_tokens
    assert grown("mesh_batch_tokens_total", "completion") == batch.usage.output_tokens
    scraped = metrics_of(runners[0])
    assert re.search(r"^mesh_batch_running 0\.0$", scraped, re.MULTILINE)
    guide = (ROOT / "docs" / "guides" / "batch.md").read_text()
    documented = set(re.findall(r"`(mesh_batch_\w+)", guide))
    there = set(re.findall(r"^# TYPE (mesh_batch_\w+) (?:counter|gauge)$", scraped, re.MULTILINE))
    assert {name for name in there if not name.endswith("_created")} == documented
    assert json.dumps(sorted(documented)).count("mesh_batch") >= 5
