"""A gateway, a replica of the tiny chat model, and runners of batches as Ray actors, each as in a mesh."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar, cast

import openai
import ray
from openai.types import Batch

from serving._proto import batch_pb2
from serving._proto import records_pb2 as pb
from serving.batch.orders.batch import Batch as BatchRecords
from serving.batch.orders.batch import ends_at
from serving.batch.orders.book import EndedBatch, OrderBook
from serving.batch.orders.claims import read_batch
from serving.batch.orders.view import word_of
from serving.batch.runner.actor import RunnerActor
from serving.batch.store.content import ContentStore, kept
from serving.batch.store.files import INPUT, file_record, new_file_id
from serving.local.etcd import EtcdOptions, start_etcd
from serving.store import EtcdClient, keys
from serving.store.records import decode, encode
from tests.support.batches import order_of
from tests.support.llm_serving import GatewayProcess, LlmProcess, config_of, llm_config
from tests.support.waiting import eventually

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
T = TypeVar("T")
_CHAT: dict[str, Any] = {"model": "tiny-chat", "temperature": 0, "max_tokens": 20}
ENDED = ("completed", "failed", "expired", "cancelled")


class BatchWorld:
    """Everything ends with `stack`."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.etcd_server = start_etcd(folder / "etcd", options=EtcdOptions(die_with_parent=True))
        stack.callback(self.etcd_server.kill)
        self.etcd = self.etcd_server.config()
        self.chat = LlmProcess(folder, llm_config(folder, etcd=self.etcd))
        stack.callback(self.chat.end)
        gateway = GatewayProcess(folder, self.etcd, leave_s=0.0, batch_store=str(self.store))
        stack.callback(gateway.end)
        self.url = gateway.url
        stack.callback(ray.shutdown)
        begin_ray()
        self.chat.wait_state("ready", registered=True)
        self.client = stack.enter_context(openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0))

    def runner(self, name: str, stack: ExitStack, *, lease_ttl_s: int = 15, **batch: Any) -> RunnerHandle:
        """A ready runner. `lease_ttl_s`: also a machine that stands still for some seconds keeps one of 15. `batch` are
        fields of `BatchDeployment`."""
        config = config_of(name, "batches", self.etcd, application="batches", batch=pb.BatchDeployment(**batch))
        config.lease_ttl_s = lease_ttl_s
        config.log_file = str(self.folder / f"{name}.log")
        made = RunnerHandle(config)
        stack.callback(made.end)
        made.wait_ready()
        return made

    def order(self, lines: bytes, *, window: str = "24h", endpoint: str = CHAT) -> str:
        """The id of a batch of this input."""
        file = self.client.files.create(file=("in.jsonl", lines), purpose="batch")
        made = self.client.batches.create(
            input_file_id=file.id,
            endpoint=endpoint,  # type: ignore[arg-type]
            completion_window=window,  # type: ignore[arg-type]  # the mesh takes others, too
        )
        return made.id

    def batch(self, batch_id: str) -> Batch:
        return self.client.batches.retrieve(batch_id)

    def under_way(self, batch_id: str) -> Batch:
        """Some of it is done."""

        def look() -> Batch | None:
            now = self.batch(batch_id)
            if now.status not in ("validating", "in_progress"):
                raise RuntimeError(f"it has ended: {now}")
            return now if now.request_counts and now.request_counts.completed else None

        return cast(Batch, eventually(look, timeout_s=240, what="some lines are done"))

    def ended(self, batch_id: str, *, timeout_s: float = 500.0) -> Batch:
        def look() -> Batch | None:
            now = self.batch(batch_id)
            return now if now.status in ENDED else None

        return cast(Batch, eventually(look, timeout_s=timeout_s, what=f"{batch_id} ends"))

    def lines(self, file_id: str | None) -> list[dict[str, Any]]:
        """Of an output or error file."""
        assert file_id
        return [json.loads(line) for line in self.client.files.content(file_id).text.splitlines()]

    def order_as(self, tenant: str, lines: bytes) -> str:
        """As a gateway writes it for a tenant."""
        now = time.time()
        content = kept(ContentStore(str(self.store)), tenant, lambda writing: writing.write(lines))
        file = file_record(tenant, new_file_id(), content, filename="in", purpose=INPUT, now=now, expires_after_s=0)
        name = f"batch_{secrets.token_hex(8)}"
        order = order_of(name, created=now, namespace=tenant, input_file=file.id, store=self.store.as_uri())

        async def write(etcd: EtcdClient) -> None:
            await etcd.put(keys.file(tenant, file.id), encode(file))
            await OrderBook(etcd, max_unfinished=100).create(order, now)

        self.ask(write)
        return name

    def cancel_as(self, tenant: str, batch_id: str) -> None:
        """Nothing where it has ended."""

        async def cancel(etcd: EtcdClient) -> None:
            with contextlib.suppress(EndedBatch):
                await OrderBook(etcd, max_unfinished=100).cancel(tenant, batch_id, time.time())

        self.ask(cancel)

    def word(self, tenant: str, batch_id: str) -> str:
        """Its status."""
        return word_of(self.records(tenant, batch_id), time.time())

    def records(self, tenant: str, batch_id: str) -> BatchRecords:
        """As they are in etcd."""

        async def read(etcd: EtcdClient) -> BatchRecords:
            return await read_batch(etcd, tenant, batch_id)

        return self.ask(read)

    def status(self, batch_id: str) -> batch_pb2.BatchStatus:
        """As its runner last wrote it."""
        found = self.records("default", batch_id).status
        assert found is not None
        return found

    def ask(self, step: Callable[[EtcdClient], Awaitable[T]]) -> T:
        async def run() -> T:
            etcd = EtcdClient(self.etcd)
            try:
                return await step(etcd)
            finally:
                await etcd.close()

        return asyncio.run(run())

    def ended_at(self, tenant: str, batch_id: str) -> float:
        """In unix seconds; 0 where it has not ended."""
        return ends_at(self.records(tenant, batch_id), time.time()) or 0.0

    def left_behind(self) -> list[Path]:
        """Folders of jobs."""
        return list((self.store / "jobs").glob("*/*"))


def begin_ray(*, num_cpus: int = 1, attempts: int = 4) -> None:
    """Ray gives a cluster 30 s to start, and says an `Exception` of no kind; a loaded machine needs longer."""
    for left in reversed(range(attempts)):
        try:
            ray.init(num_cpus=num_cpus, include_dashboard=False, log_to_driver=False, logging_level="error")
            return
        except Exception:
            ray.shutdown()
            if not left:
                raise


class RunnerHandle:
    """A runner in an actor that Ray starts again."""

    def __init__(self, config: pb.ReplicaConfig) -> None:
        kind = ray.remote(RunnerActor)
        self._log = Path(config.log_file)
        self.actor = kind.options(num_cpus=0.25, max_restarts=-1, max_task_retries=-1).remote(encode(config).decode())

    def report(self) -> pb.ReplicaReport:
        return decode(pb.ReplicaReport, ray.get(self.actor.Status.remote()).encode())

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def computed(self, batch_id: str) -> list[int]:
        """Lines of each of its runs that ended."""
        told = (one for one in self.log() if one["msg"] == "a batch's lines were run")
        return [one["computed"] for one in told if one["batch"] == batch_id]

    def wait_ready(self) -> pb.ReplicaReport:
        def look() -> pb.ReplicaReport | None:
            report = self.report()
            assert report.state != "failed", report.reason
            return report if report.state == "ready" else None

        return cast(pb.ReplicaReport, eventually(look, timeout_s=300.0, what="the runner is ready"))

    def kill(self) -> None:
        """As the system kills it; Ray starts it again."""
        os.kill(self.report().pid, signal.SIGKILL)

    def drain(self) -> None:
        ray.get(self.actor.Drain.remote(30.0))

    def end(self) -> None:
        ray.get(self.actor.Stop.remote())
        ray.kill(self.actor)


def sums(count: int) -> list[str]:
    return [f"What is {number} plus {number % 7}?" for number in range(count)]


def many_lines(count: int) -> bytes:
    """Each of about thirty tokens."""
    return chat_lines(sums(count), max_tokens=30, ignore_eos=True)


def counts(batch: Batch) -> tuple[int, int, int]:
    """Total, completed, failed."""
    found = batch.request_counts
    assert found is not None
    return found.total, found.completed, found.failed


def request_lines(endpoint: str, bodies: Sequence[dict[str, Any]]) -> bytes:
    """`custom_id` is the number of each."""
    made = [
        {"custom_id": str(number), "method": "POST", "url": endpoint, "body": body}
        for number, body in enumerate(bodies)
    ]
    return "".join(f"{json.dumps(one)}\n" for one in made).encode()


def completion_lines(prompts: Sequence[str]) -> bytes:
    """Each asked greedily."""
    asked = [{"model": "tiny-chat", "prompt": prompt, "temperature": 0, "max_tokens": 8} for prompt in prompts]
    return request_lines(COMPLETIONS, asked)


def chat_lines(questions: Sequence[str], **body: Any) -> bytes:
    """Each asked greedily."""
    return request_lines(CHAT, [{**_CHAT, "messages": [{"role": "user", "content": one}], **body} for one in questions])
