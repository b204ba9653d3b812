"""A gateway, a replica of the tiny chat model, and runners of batches as Ray actors, each as in a mesh."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import openai
import ray
from openai.types import Batch

from serving._proto import records_pb2 as pb
from serving.batch.runner.actor import RunnerActor
from serving.local.etcd import EtcdOptions, start_etcd
from serving.store.records import decode, encode
from tests.support.llm_serving import GatewayProcess, LlmProcess, config_of, llm_config
from tests.support.waiting import eventually

CHAT = "/v1/chat/completions"
ENDED = ("completed", "failed", "expired", "cancelled")


class BatchWorld:
    """Everything ends with `stack`."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.store = folder / "store"
        etcd = start_etcd(folder / "etcd", options=EtcdOptions(die_with_parent=True))
        stack.callback(etcd.kill)
        self.etcd = etcd.config()
        self.chat = LlmProcess(folder, llm_config(folder, etcd=self.etcd))
        stack.callback(self.chat.end)
        gateway = GatewayProcess(folder, self.etcd, leave_s=0.0, batch_store=str(self.store))
        stack.callback(gateway.end)
        self.url = gateway.url
        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")
        stack.callback(ray.shutdown)
        self.chat.wait_state("ready", registered=True)
        self.client = stack.enter_context(openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0))

    def runner(self, name: str, stack: ExitStack, **batch: Any) -> RunnerHandle:
        """A ready runner. `batch` are fields of `BatchDeployment`."""
        config = config_of(name, "batches", self.etcd, application="batches", batch=pb.BatchDeployment(**batch))
        config.log_file = str(self.folder / f"{name}.log")
        made = RunnerHandle(config)
        stack.callback(made.end)
        made.wait_ready()
        return made

    def order(self, lines: Sequence[str] | bytes, *, client: openai.OpenAI | None = None, **more: Any) -> str:
        """The id of a batch of these questions, or of this file."""
        asked = client or self.client
        data = lines if isinstance(lines, bytes) else chat_lines(lines)
        file = asked.files.create(file=("in.jsonl", data), purpose="batch")
        made = asked.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h", **more)
        return made.id

    def batch(self, batch_id: str, *, client: openai.OpenAI | None = None) -> Batch:
        return (client or self.client).batches.retrieve(batch_id)

    def ended(self, batch_id: str, *, timeout_s: float = 120.0, client: openai.OpenAI | None = None) -> Batch:
        def look() -> Batch | None:
            now = self.batch(batch_id, client=client)
            return now if now.status in ENDED else None

        return cast(Batch, eventually(look, timeout_s=timeout_s, what=f"{batch_id} ends"))

    def lines(self, file_id: str | None, *, client: openai.OpenAI | None = None) -> list[dict[str, Any]]:
        """Of an output or error file."""
        assert file_id
        text = (client or self.client).files.content(file_id).text
        return [json.loads(line) for line in text.splitlines()]

    def left_behind(self) -> list[Path]:
        """Folders of jobs."""
        return list((self.store / "jobs").glob("*/*"))


class RunnerHandle:
    """A runner in an actor that Ray starts again."""

    def __init__(self, config: pb.ReplicaConfig) -> None:
        kind = ray.remote(RunnerActor)
        self.actor = kind.options(num_cpus=0.5, max_restarts=-1, max_task_retries=-1).remote(encode(config).decode())

    def report(self) -> pb.ReplicaReport:
        return decode(pb.ReplicaReport, ray.get(self.actor.Status.remote()).encode())

    def wait_ready(self) -> pb.ReplicaReport:
        def look() -> pb.ReplicaReport | None:
            report = self.report()
            assert report.state != "failed", report.reason
            return report if report.state == "ready" else None

        return cast(pb.ReplicaReport, eventually(look, timeout_s=90.0, what="the runner is ready"))

    def kill(self) -> None:
        """As the system kills it; Ray starts it again."""
        os.kill(self.report().pid, signal.SIGKILL)

    def drain(self) -> None:
        ray.get(self.actor.Drain.remote(30.0))

    def end(self) -> None:
        ray.get(self.actor.Stop.remote())
        ray.kill(self.actor)


def chat_lines(questions: Sequence[str], **body: Any) -> bytes:
    """Each asked greedily; `custom_id` is its number."""
    made = [
        {
            "custom_id": str(number),
            "method": "POST",
            "url": CHAT,
            "body": {
                "model": "tiny-chat",
                "messages": [{"role": "user", "content": question}],
                "temperature": 0,
                "max_tokens": 20,
                **body,
            },
        }
        for number, question in enumerate(questions)
    ]
    return "".join(f"{json.dumps(one)}\n" for one in made).encode()
