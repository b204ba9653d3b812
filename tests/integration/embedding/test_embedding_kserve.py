"""The same vectors over KServe v2, with `tritonclient`: at the replica and through a gRPC proxy of the application."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import openai
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.integration.embedding.conftest import MODEL
from tests.integration.proxy.proxy_harness import Proxy
from tests.support.llm_serving import EmbeddingProcess
from tests.support.waiting import eventually

TEXTS = ["a cat", "a kitten on the sofa", "Zürich — 東京 🙂"]


@pytest.fixture(params=["replica", "proxy"])
def kserve(request: pytest.FixtureRequest, replica: EmbeddingProcess) -> Iterator[Any]:
    address = replica.report.health_address
    if request.param == "proxy":
        proxy: Proxy = request.getfixturevalue("proxy")
        address = proxy.address
    with triton.InferenceServerClient(address) as client:
        eventually(lambda: client.is_model_ready(MODEL), timeout_s=30, what="the model is ready there")
        yield client


def infer(client: Any, rows: list[bytes] | np.ndarray[Any, Any], **options: Any) -> np.ndarray[Any, Any]:
    values = np.array(rows, dtype=object) if isinstance(rows, list) else rows
    text = triton.InferInput("text", list(values.shape), "BYTES")
    text.set_data_from_numpy(values)
    answer = client.infer(options.pop("model", MODEL), [text], **options).as_numpy("embedding")
    assert answer is not None
    return np.asarray(answer)


def test_vectors_are_those_of_the_other_protocol(kserve: Any, client: openai.OpenAI) -> None:
    vectors = infer(kserve, [text.encode() for text in TEXTS])
    expected = [item.embedding for item in client.embeddings.create(model=MODEL, input=TEXTS).data]
    assert (vectors.shape, vectors.dtype) == ((3, 384), np.float32)
    np.testing.assert_allclose(vectors, expected, atol=1e-4)


def test_it_says_what_it_takes(kserve: Any) -> None:
    metadata = kserve.get_model_metadata(MODEL)
    assert metadata.platform == "mesh_embedding"
    assert [(item.name, item.datatype, list(item.shape)) for item in metadata.inputs] == [("text", "BYTES", [-1])]
    assert [(item.name, item.datatype, list(item.shape)) for item in metadata.outputs] == [
        ("embedding", "FP32", [-1, 384])
    ]


def test_streams_take_the_same(replica: EmbeddingProcess) -> None:
    answers: list[Any] = []
    with triton.InferenceServerClient(replica.report.health_address) as client:
        client.start_stream(lambda result, error: answers.append(error or result.as_numpy("embedding")))
        for text in TEXTS:
            given = triton.InferInput("text", [1], "BYTES")
            given.set_data_from_numpy(np.array([text.encode()], dtype=object))
            client.async_stream_infer(MODEL, [given])
        eventually(lambda: len(answers) == 3, timeout_s=60, what="three answers")
        client.stop_stream()
    assert [answer.shape for answer in answers] == [(1, 384)] * 3


def test_the_end_of_a_long_text_is_left_out_where_that_is_asked_for(kserve: Any) -> None:
    long = [b"word " * 300]
    assert infer(kserve, long, parameters={"truncate": True}).shape == (1, 384)
    with pytest.raises(InferenceServerException, match=r"text\[0\] has more than the 256 tokens") as refused:
        infer(kserve, long)
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
    with pytest.raises(InferenceServerException, match="`truncate` is true or false, not 'yes'"):
        infer(kserve, long, parameters={"truncate": "yes"})


def test_what_is_refused(kserve: Any) -> None:
    def refused(pattern: str, status: str, rows: Any, **options: Any) -> None:
        with pytest.raises(InferenceServerException, match=pattern) as caught:
            infer(kserve, rows, **options)
        assert caught.value.status() == f"StatusCode.{status}"

    refused(r"text\[1\] is empty", "INVALID_ARGUMENT", [b"fine", b""])
    refused(r"text\[1\] is not UTF-8", "INVALID_ARGUMENT", [b"fine", b"\xff\xfe"])
    refused("there are 2049 inputs, at most 2048", "INVALID_ARGUMENT", [b"x"] * 2049)
    refused(r"expects the shape \[-1\], got \[1, 1\]", "INVALID_ARGUMENT", np.array([[b"x"]], dtype=object))
    number = triton.InferInput("text", [1], "FP32")
    number.set_data_from_numpy(np.ones(1, dtype=np.float32))
    with pytest.raises(InferenceServerException, match="expects BYTES, got FP32"):
        kserve.infer(MODEL, [number])
    assert infer(kserve, np.empty(0, dtype=object)).shape == (0, 384)
    assert infer(kserve, [b"fine"]).shape == (1, 384)


def test_another_model_is_not_found(replica: EmbeddingProcess) -> None:
    with triton.InferenceServerClient(replica.report.health_address) as client:
        with pytest.raises(InferenceServerException, match="unknown model") as missing:
            infer(client, [b"x"], model="other")
        assert missing.value.status() == "StatusCode.NOT_FOUND"
        with pytest.raises(InferenceServerException, match="this deployment has no SystemSharedMemoryStatus"):
            client.get_system_shared_memory_status()


def test_a_message_that_is_too_large_is_refused(replica: EmbeddingProcess) -> None:
    with triton.InferenceServerClient(replica.report.health_address) as client:
        with pytest.raises(InferenceServerException) as refused:
            infer(client, [b"x" * (9 << 20)])
        assert refused.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
        assert infer(client, [b"fine"]).shape == (1, 384)


def test_health_is_told(replica: EmbeddingProcess) -> None:
    channel: Any = grpc.insecure_channel(replica.report.health_address)
    with channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert check(b"", timeout=30) == b"\x08\x01"
