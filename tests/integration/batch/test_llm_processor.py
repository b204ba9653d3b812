"""Pipelines of Ray Data on a real local Ray, through real replicas: ours, and that of `ray.data.llm` at the gateway."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pyarrow as pa
import pytest
import ray
from ray.data.llm import HttpRequestProcessorConfig, build_processor

from serving.batch.processor import LLMProcessor
from serving.batch.sending.places import Discovered, Fixed
from serving.batch.sending.settings import SenderConfig
from serving.batch.stages.settings import ProcessorConfig
from serving.batch.stages.worker import RowWorker
from serving.local.etcd import EtcdOptions, start_etcd
from tests.support.batch_world import begin_ray
from tests.support.llm_serving import (
    EmbeddingProcess,
    GatewayProcess,
    LlmProcess,
    embedding_config,
    llm_config,
)
from tests.support.waiting import eventually

pytestmark = pytest.mark.ray
SENDER = SenderConfig(unknown_model_s=0.3)


class World:
    def __init__(self, folder: Path, stack: ExitStack) -> None:
        etcd = start_etcd(folder / "etcd", options=EtcdOptions(die_with_parent=True))
        stack.callback(etcd.kill)
        self.etcd = etcd.config()
        chat = LlmProcess(folder, llm_config(folder, etcd=self.etcd))
        stack.callback(chat.end)
        embedder = EmbeddingProcess(folder, embedding_config(etcd=self.etcd))
        stack.callback(embedder.end)
        self.chat_url = chat.wait_state("ready", registered=True).address
        embedder.wait_state("ready", registered=True)
        gateway = GatewayProcess(folder, self.etcd)
        stack.callback(gateway.end)
        self.gateway = gateway.url
        stack.callback(ray.shutdown)
        begin_ray(num_cpus=2)
        ray.data.DataContext.get_current().enable_progress_bars = False

    def config(self, task: str, model: str = "tiny-chat", **more: Any) -> ProcessorConfig:
        return ProcessorConfig(Discovered(self.etcd, model=model), task=task, num_cpus=0.2, sender=SENDER, **more)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("processor"), stack)


def sums(count: int) -> list[dict[str, Any]]:
    return [{"id": number, "text": f"{number} plus {number % 7}", "tag": ["a", None]} for number in range(count)]


GREEDY = {"temperature": 0, "max_tokens": 20}


def test_a_chat_pipeline_keeps_all_columns_and_gives_what_ray_data_llm_does(world: World) -> None:
    processor = LLMProcessor(
        world.config("chat", template="What is {text}?", sampling=GREEDY, batch_size=32),
        postprocess=lambda row: {"words": len(row["generated_text"].split())},
    )
    ours = {row["id"]: row for row in processor(ray.data.from_items(sums(120))).take_all()}
    report = processor.report()
    processor.forget()
    assert sorted(ours) == list(range(120))
    assert ours[3]["text"] == "3 plus 3"
    assert ours[3]["tag"] == ["a", None]
    assert {row["__error__"] for row in ours.values()} == {None}
    assert all(row["words"] == len(row["generated_text"].split()) and row["completion_tokens"] for row in ours.values())
    assert (report.rows, report.answers, report.faults, report.workers) == (120, 120, 0, 1)
    assert processor.report().workers == 0

    theirs = build_processor(
        HttpRequestProcessorConfig(url=f"{world.gateway}/v1/chat/completions", concurrency=1, batch_size=32),
        preprocess=lambda row: {
            "payload": {
                "model": "tiny-chat",
                "messages": [{"role": "user", "content": f"What is {row['text']}?"}],
                **GREEDY,
            }
        },
        postprocess=lambda row: {"id": row["id"], "said": row["http_response"]["choices"][0]["message"]["content"]},
    )
    told = {row["id"]: row["said"] for row in theirs(ray.data.from_items(sums(120))).take_all()}
    assert told == {number: row["generated_text"] for number, row in ours.items()}


def test_rows_that_fail_stay_with_their_error_or_end_the_job(world: World) -> None:
    rows = [*sums(3), {"id": 3, "text": None, "tag": ["a", None]}]
    rows[1]["sampling_params"] = {"temperature": 9.0}
    preprocess = lambda row: {"prompt": row["text"]}  # noqa: E731
    config = world.config("completion", sampling=GREEDY)
    dataset = ray.data.from_items([{"sampling_params": None, **row} for row in rows])
    found = LLMProcessor(config, preprocess=preprocess, postprocess=lambda row: {"seen": row["id"]})(dataset).take_all()
    by_id = {row["id"]: row for row in found}
    assert [by_id[number]["seen"] for number in range(4)] == [0, None, 2, None]
    assert by_id[1]["__error__"]["attempts"] == 1
    assert "temperature" in by_id[1]["__error__"]["message"]
    assert by_id[3]["__error__"]["code"] == "invalid_argument"
    with pytest.raises(Exception, match="a row failed, and `on_error` is raise"):
        LLMProcessor(replace(config, on_error="raise"), preprocess=preprocess)(dataset).materialize()


def test_lines_of_a_batch_file_at_a_gateway(world: World) -> None:
    bodies = [
        {"model": "tiny-chat", "prompt": "One day", **GREEDY},
        {"model": "nope", "prompt": "One day"},
        {"model": "default/chat/tiny-chat", "prompt": "One day", **GREEDY},
    ]
    lines = [
        {"custom_id": f"r{number}", "url": "/v1/completions", "body": json.dumps(body)}
        for number, body in enumerate(bodies)
    ]
    config = ProcessorConfig(Fixed((world.gateway,)), task="raw", num_cpus=0.2)
    found = {row["custom_id"]: row for row in LLMProcessor(config)(ray.data.from_items(lines)).take_all()}
    assert [found[f"r{number}"]["response"]["status_code"] for number in range(3)] == [200, 404, 200]
    first, _, third = (json.loads(found[f"r{number}"]["response"]["body"]) for number in range(3))
    assert first["choices"][0]["text"] == third["choices"][0]["text"]
    assert found["r0"]["response"]["request_id"]
    assert found["r0"]["error"] is None
    assert found["r0"]["completion_tokens"] == first["usage"]["completion_tokens"]
    assert found["r1"]["__error__"]["code"] == "model_not_found"


def test_the_class_of_a_request_goes_through_the_gateway_and_rows_have_the_lowest(world: World) -> None:
    body = {"model": "tiny-chat", "messages": [{"role": "user", "content": "One day"}], **GREEDY}
    url = f"{world.gateway}/v1/chat/completions"
    lowest, plain, unknown = (
        httpx.post(url, json=body, headers=headers, timeout=60)
        for headers in ({"x-mesh-class": "batch"}, {}, {"x-mesh-class": "urgent"})
    )
    assert [one.json().get("service_tier") for one in (lowest, plain)] == ["batch", "default"]
    assert (unknown.status_code, "x-mesh-class" in unknown.json()["error"]["message"]) == (400, True)
    line = {"custom_id": "a", "url": "/v1/chat/completions", "body": json.dumps(body)}
    config = ProcessorConfig(Fixed((world.gateway,)), task="raw", num_cpus=0.2)
    [row] = LLMProcessor(config)(ray.data.from_items([line])).take_all()
    assert json.loads(row["response"]["body"])["service_tier"] == "batch"


def test_columns_of_pandas_with_holes_and_numbers(world: World) -> None:
    """Texts that are missing, integers that have become floats."""
    frame = pd.DataFrame(
        {"id": range(4), "prompt": ["One day", None, "The", float("nan")], "expected_tokens": [3, None, 2, 1]}
    )
    dataset = ray.data.from_pandas(frame)
    found = {row["id"]: row for row in LLMProcessor(world.config("completion", sampling=GREEDY))(dataset).take_all()}
    assert [found[number]["__error__"] is None for number in range(4)] == [True, False, True, False]
    assert "the row has none" in found[1]["__error__"]["message"]


def test_embeddings_as_texts_and_as_tensors(world: World) -> None:
    dataset = ray.data.from_items([{"input": f"text {number}", "text": [f"text {number}"]} for number in range(10)])
    texts = LLMProcessor(world.config("embedding", "minilm"))(dataset)
    both = LLMProcessor(world.config("kserve", "minilm", inputs={"text": "str"}, batched=False))(texts).take_all()
    assert len(both) == 10
    for row in both:
        assert row["__error__"] is None
        assert len(row["embeddings"]) == 384
        [tensor] = [row[name] for name in row if name not in texts.columns()]
        assert row["embeddings"] == pytest.approx(tensor[0], abs=1e-5)


def test_a_reader_that_is_faster_is_held_back(world: World) -> None:
    dataset = ray.data.range(1_000_000, override_num_blocks=10_000)
    config = world.config("completion", sampling={"temperature": 0, "max_tokens": 1}, batch_size=50)
    processor = LLMProcessor(config, preprocess=lambda row: {"prompt": f"One day {row['id']}"})
    reading = iter(processor(dataset).iter_rows())
    assert len({next(reading)["id"] for _ in range(300)}) == 300
    told = lambda: report if (report := processor.report()).rows >= 300 else None  # noqa: E731
    assert eventually(told, timeout_s=60.0, what="its workers tell of the rows").rows < 100_000


async def test_a_worker_is_a_class_for_map_batches_that_can_be_closed(world: World) -> None:
    worker = RowWorker(world.config("completion", sampling=GREEDY))
    try:
        found = await worker(pa.table({"prompt": ["One day", "The"]}))
        assert found.column("__error__").null_count == 2
        assert (await worker(pa.table({"prompt": pa.array([], pa.string())}))).num_rows == 0
        assert worker.snapshot().sender["answers"] == 2
        numbers = await worker(pa.table({"prompt": [7, 8]}))
        assert ["prompt" in one["message"] for one in numbers.column("__error__").to_pylist()] == [True, True]
    finally:
        worker.close()
        worker.close()
