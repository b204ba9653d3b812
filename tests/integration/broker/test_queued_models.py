"""Requests for language and embedding models that wait at a broker: answers, streams, what is wrong with them, TLS."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving import AsyncMeshClient, Connection
from serving._proto import records_pb2 as pb
from serving.config import TlsConfig
from serving.errors import Cancelled, InvalidArgument, NotFound
from serving.local.etcd import EtcdCluster
from tests.support.broker_serving import BrokerProcess, broker_config
from tests.support.certificates import Authority
from tests.support.llm_serving import MODEL, EmbeddingProcess, LlmProcess, ReplicaProcess, embedding_config, llm_config
from tests.support.waiting import aeventually

pytestmark = pytest.mark.timeout(900)
APP = "models"
RESULT_S = 120.0
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "What is the capital of Japan?"}], "temperature": 0}


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsConfig:
    """What all of them present to each other."""
    return Authority.make(tmp_path_factory.mktemp("tls") / "mesh").issue("replica")


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory, etcd: EtcdCluster, tls: TlsConfig) -> Iterator[list[Any]]:
    """A broker, a language model and an embedding model, all with TLS."""
    folder = Path(tmp_path_factory.mktemp("models"))
    made: list[ReplicaProcess] = []
    for kind, config in (
        (BrokerProcess, broker_config(folder, etcd.config(), application=APP, before=["chat", "minilm"])),
        (LlmProcess, llm_config(folder, etcd=etcd.config(), application=APP)),
        (EmbeddingProcess, embedding_config(etcd=etcd.config(), application=APP)),
    ):
        config.serving_tls.CopyFrom(pb.TlsFiles(ca=tls.ca_file, cert=tls.cert_file, key=tls.key_file))
        made.append(kind(folder, config))
    for one in made:
        one.wait_state("ready", registered=True)
    yield made
    for one in made:
        one.end()


@pytest.fixture
async def client(etcd: EtcdCluster, replicas: list[Any], tls: TlsConfig) -> AsyncIterator[AsyncMeshClient]:
    assert replicas
    async with AsyncMeshClient(Connection(etcd.config(), tls=tls)) as made:
        yield made


async def test_a_chat_and_its_stream(client: AsyncMeshClient) -> None:
    answer = await (await client.submit(APP, "chat", body=CHAT)).result(timeout_s=RESULT_S)
    text = answer["choices"][0]["message"]["content"]
    assert "Tokyo" in text
    ticket = await client.submit(APP, "chat", body=CHAT | {"stream": True})
    parts = [part async for part in ticket.parts(timeout_s=RESULT_S)]
    events = [event for part in parts for event in part.events()]
    assert "".join(event["choices"][0]["delta"].get("content") or "" for event in events) == text
    assert [part.number for part in parts] == list(range(len(parts)))
    assert b"".join(part.data for part in parts).decode() == await ticket.result(timeout_s=RESULT_S)


async def test_a_cancelled_generation_ends(client: AsyncMeshClient, replicas: list[Any]) -> None:
    long = CHAT | {"max_tokens": 1500, "ignore_eos": True, "stream": True, "temperature": 1.5, "seed": 1}
    ticket = await client.submit(APP, "chat", body=long)
    first = await anext(ticket.parts(timeout_s=RESULT_S))
    assert first.events()
    await ticket.cancel()
    with pytest.raises(Cancelled):
        await ticket.result(timeout_s=RESULT_S)

    async def free() -> bool:
        statistics = await client.queue.statistics(APP)
        return all(row.running == 0 for row in statistics)

    await aeventually(free, timeout_s=60, what="nothing runs")
    assert replicas[1].report.state == "ready"


async def test_errors_are_those_of_the_protocol(client: AsyncMeshClient) -> None:
    with pytest.raises(NotFound, match="there is no model `other` here"):
        await (await client.submit(APP, "chat", body=CHAT | {"model": "other"})).result(timeout_s=RESULT_S)
    with pytest.raises(InvalidArgument, match="messages"):
        await (await client.submit(APP, "chat", body={"model": MODEL})).result(timeout_s=RESULT_S)
    with pytest.raises(InvalidArgument, match="is asked by OpenAI's HTTP protocol"):
        await (await client.submit(APP, "chat", {"x": [1]})).result(timeout_s=RESULT_S)
    failed = await client.submit(APP, "chat", body=CHAT, path="/v1/nothing")
    with pytest.raises(NotFound, match="there is no POST /v1/nothing here"):
        await failed.result(timeout_s=RESULT_S)
    assert await failed.state() == "FAILED"


async def test_vectors_over_both_protocols(client: AsyncMeshClient) -> None:
    tensor = await client.submit(APP, "minilm", {"text": ["a cat"]})
    body = {"model": "minilm", "input": "a cat"}
    http = await client.submit(APP, "minilm", body=body, path="/v1/embeddings")
    vectors = await tensor.result(timeout_s=RESULT_S)
    answer = await http.result(timeout_s=RESULT_S)
    np.testing.assert_allclose(vectors["embedding"][0], answer["data"][0]["embedding"], atol=1e-4)
