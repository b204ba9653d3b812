"""A sender among real replicas that it finds in discovery, which die and come."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.batch.rows.request import CHAT, EMBEDDINGS, RowAnswer, RowRequest, openai_request
from serving.batch.sending.make import make_sender
from serving.batch.sending.places import Discovered, Fixed
from serving.batch.sending.sender import Sender
from serving.batch.sending.settings import SenderConfig
from serving.config import EtcdConfig
from serving.llm.openvino_config import OpenVinoOptions
from serving.local.etcd import EtcdOptions, start_etcd
from serving.sdk.tensors import decode_response, encode_request
from serving.types import PROTOCOL_KSERVE_GRPC
from tests.support.llm_serving import EmbeddingProcess, LlmProcess, embedding_config, llm_config
from tests.support.waiting import eventually_async

CONFIG = SenderConfig(unknown_model_s=0.3)


class Mesh:
    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        etcd = start_etcd(folder / "etcd", options=EtcdOptions(die_with_parent=True))
        stack.callback(etcd.kill)
        self.etcd: EtcdConfig = etcd.config()
        self.chats = [self.new_chat(f"chat-r1-{number}") for number in range(2)]
        embedder = EmbeddingProcess(folder, embedding_config(etcd=self.etcd))
        stack.callback(embedder.end)
        for one in (*self.chats, embedder):
            one.wait_state("ready", registered=True)

    def new_chat(self, name: str) -> LlmProcess:
        replica = LlmProcess(self._folder, llm_config(self._folder, name=name, etcd=self.etcd))
        self._stack.callback(replica.end)
        return replica

    def sender(self, model: str = "tiny-chat", config: SenderConfig = CONFIG, **more: Any) -> Sender:
        return make_sender(Discovered(self.etcd, model=model), config, **more)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with ExitStack() as stack:
        yield Mesh(tmp_path_factory.mktemp("batch"), stack)


def questions(count: int) -> list[RowRequest]:
    asked = (f"What is {number} plus {number % 7}?" for number in range(count))
    return [
        openai_request(CHAT, {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 20})
        for text in asked
    ]


def said(answer: RowAnswer) -> str:
    assert answer.fault is None, answer.fault
    return str(answer.value["choices"][0]["message"]["content"])


async def all_of(sender: Sender, rows: list[RowRequest]) -> list[RowAnswer]:
    found = {number: answer async for number, answer in sender.send_all(enumerate(rows))}
    return [found[number] for number in range(len(rows))]


async def test_both_replicas_answer_what_one_alone_does(mesh: Mesh) -> None:
    rows = questions(150)
    async with mesh.sender() as sender:
        found = await all_of(sender, rows)
        assert len(sender.limits) == 2
        assert set(sender.limits.values()) == {2 * OpenVinoOptions().max_running}, "as the replicas say"
    alone = Fixed((mesh.chats[0].url,), model="tiny-chat")
    async with make_sender(alone) as sender:
        assert [said(one) for one in await all_of(sender, rows)] == [said(one) for one in found]
    assert {one.value["service_tier"] for one in found} == {"batch"}


async def test_a_model_that_nobody_offers_is_said_and_a_row_may_name_its_own(mesh: Mesh) -> None:
    async with mesh.sender(model="") as sender:
        [asked] = questions(1)
        rows = [replace(asked, model=name) for name in ("", "tiny-chats", "default/chat/tiny-chat")]
        unnamed, unknown, known = await all_of(sender, rows)
        assert unnamed.fault is not None
        assert unnamed.fault.code == "invalid_argument"
        assert unknown.fault is not None
        assert (unknown.fault.code, "did you mean `tiny-chat`" in unknown.fault.message) == ("not_found", True)
        assert known.value["model"] == "tiny-chat"


async def test_texts_over_http_and_tensors_over_grpc_give_the_same_vectors(mesh: Mesh) -> None:
    model = "minilm"
    texts = [f"text {number}" for number in range(20)]
    async with mesh.sender(model) as sender:
        http = await all_of(sender, [openai_request(EMBEDDINGS, {"input": text}) for text in texts])
    async with mesh.sender(model, protocol=PROTOCOL_KSERVE_GRPC) as sender:
        rows = [RowRequest("", encode_request(model, {"text": np.array([text], object)}), model) for text in texts]
        grpc = await all_of(sender, [*rows, RowRequest("", encode_request(model, {"NO": np.zeros(1)}), model)])
    wrong = grpc.pop()
    assert wrong.fault is not None
    assert wrong.fault.code == "invalid_argument"
    for one, other in zip(http, grpc, strict=True):
        assert one.fault is None
        assert other.fault is None
        [vector] = decode_response(other.value).values()
        np.testing.assert_allclose(one.value["data"][0]["embedding"], vector[0], atol=1e-5)


async def test_a_replica_dies_and_another_one_comes_while_rows_are_sent(mesh: Mesh) -> None:
    """The last one: it ends a replica."""
    rows = questions(600)
    async with mesh.sender() as sender:
        sending = asyncio.create_task(all_of(sender, rows))
        await eventually_async(lambda: sender.stats.answers > 50, what="rows are answered")
        mesh.chats[1].kill()
        newcomer = await asyncio.to_thread(mesh.new_chat, "chat-r1-2")
        found = await sending
        assert [one.fault for one in found] == [None] * 600
        await asyncio.to_thread(newcomer.wait_state, "ready", registered=True)
        address = newcomer.report.address
        fresh = [replace(one, same=b"") for one in questions(100)]
        await all_of(sender, fresh)
        assert any(address in key for key in sender.limits)
