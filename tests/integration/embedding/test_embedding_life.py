"""The life of an embedding replica's process: both endpoints, its drain, options, weights of the user's."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import numpy as np
import openai
import pytest

from serving._proto import records_pb2 as pb
from serving.deployment.artifact_archive import pack
from serving.embedding.minilm import packaged_model
from serving.embedding.openvino_embedder import OpenVinoEmbedder
from serving.local.etcd import EtcdCluster
from serving.store import keys
from serving.store.client import EtcdClient
from serving.store.keys import AppKey
from serving.store.records import decode
from serving.types import ROLE_DIRECT
from tests.support.llm_serving import EmbeddingProcess, embedding_config

StartReplica: TypeAlias = Callable[..., EmbeddingProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartReplica]:
    with ExitStack() as stack:

        def begin(**changes: Any) -> EmbeddingProcess:
            config = embedding_config(name="own-r1-0", application="own", **changes)
            config.cache_dir = str(tmp_path / "cache")
            process = EmbeddingProcess(tmp_path, config)
            stack.callback(process.end)
            return process

        yield begin


def endpoints(etcd: EtcdCluster, application: str) -> list[pb.Endpoint]:
    """Of its replicas."""

    async def read() -> list[pb.Endpoint]:
        client = EtcdClient(etcd.config())
        try:
            found = await client.get_prefix(keys.endpoints(AppKey("default", application)))
        finally:
            await client.close()
        records = [decode(pb.Endpoint, kv.value) for kv in found.kvs]
        return [one for one in records if one.role == ROLE_DIRECT]  # a proxy of the application is another test's

    return asyncio.run(read())


def test_one_process_has_an_endpoint_for_each_protocol(etcd: EtcdCluster, replica: EmbeddingProcess) -> None:
    report = replica.report
    http, grpc = endpoints(etcd, "texts")
    assert (http.id, http.protocol, http.address) == ("minilm-r1-0", "openai-http", report.address)
    assert (grpc.id, grpc.protocol, grpc.address) == ("minilm-r1-0-grpc", "kserve-grpc", report.health_address)
    for record in (http, grpc):
        assert (record.replica, record.pid, record.state) == ("minilm-r1-0", replica.pid, "ready")
        assert [(model.name, list(model.versions)) for model in record.models] == [("all-minilm", ["1"])]
        assert record.load.max_concurrency == 1024


def test_a_drained_replica_leaves_with_both_and_fails_nobody(start: StartReplica, etcd: EtcdCluster) -> None:
    process = start(etcd=etcd.config(), max_batch_inputs=4)
    process.wait_state("ready", registered=True)
    texts = [f"{place} " + "word " * 60 for place in range(60)]

    async def ask_while_it_drains() -> int:
        async with openai.AsyncOpenAI(base_url=f"{process.url}/v1", api_key="none", max_retries=0) as client:
            for _ in range(100):  # it may be done before anybody has looked
                asked = asyncio.create_task(client.embeddings.create(model="minilm", input=texts, timeout=60))
                while not asked.done() and not await asyncio.to_thread(in_flight, process):
                    pass
                if not asked.done():
                    break
                await asked
            process.terminate()
            return len((await asked).data)

    assert asyncio.run(ask_while_it_drains()) == 60
    process.wait_state("drained")
    assert process.process.wait(120) == 0
    assert endpoints(etcd, "own") == []


def in_flight(process: EmbeddingProcess) -> float:
    lines = httpx.get(f"{process.url}/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith("mesh_ingress_in_flight ")).split()[1])


def test_a_folder_of_the_users_as_it_is(start: StartReplica, tmp_path: Path, reference: OpenVinoEmbedder) -> None:
    folder = tmp_path / "bert"
    shutil.copytree(packaged_model(), folder, ignore=shutil.ignore_patterns("*.md"))
    packed = pack(folder, (tmp_path / "artifacts").as_uri())
    weights = pb.Artifact(uri=packed.uri, digest=packed.digest, size_bytes=packed.size_bytes)
    process = start(weights=weights, precision="f32", max_tokens=16, too_long="cut")
    process.wait_state("ready")
    with openai.OpenAI(base_url=f"{process.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.embeddings.create(model="minilm", input=["a cat", "word " * 40])
        np.testing.assert_allclose(answer.data[0].embedding, reference.embed(["a cat"])[0], atol=1e-5)
        assert answer.usage.prompt_tokens == len(reference.tokenize("a cat").ids) + 16
        refuses: Any = {"truncate": False}
        with pytest.raises(openai.BadRequestError, match="more than the 16 tokens"):
            client.embeddings.create(model="minilm", input="word " * 40, extra_body=refuses)
    process.end()
    assert process.process.returncode == 0


def test_what_cannot_start_says_why(start: StartReplica) -> None:
    process = start(max_tokens=300)
    assert process.process.wait(60) == 1
    reasons = [str(line.get("reason", "")) for line in process.lines]
    assert "max_tokens: the model reads 256 of a text, not 300" in reasons
