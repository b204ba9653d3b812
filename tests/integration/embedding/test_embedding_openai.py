"""`/v1/embeddings` with the real model, asked by OpenAI's own client: at the replica and through the gateway."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from serving.embedding.openvino_embedder import OpenVinoEmbedder
from tests.integration.embedding.conftest import MODEL
from tests.support.llm_serving import EmbeddingProcess, GatewayProcess
from tests.support.waiting import eventually

TEXTS = ["a cat", "a kitten on the sofa", "a tax return", "Zürich — 東京 🙂", "word " * 200]
LEAST_COSINE = 0.997  # of vectors with int8 weights and those of the published model


def vectors_of(answer: Any) -> np.ndarray[Any, Any]:
    assert [item.index for item in answer.data] == list(range(len(answer.data)))
    return np.array([item.embedding for item in answer.data], dtype=np.float32)


def check_near(vectors: np.ndarray[Any, Any], reference: OpenVinoEmbedder, texts: list[str]) -> None:
    assert vectors.shape == (len(texts), 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    cosines = (vectors * reference.embed(texts)).sum(axis=1)
    assert cosines.min() >= LEAST_COSINE, cosines


def test_vectors_are_those_of_the_model(client: openai.OpenAI, reference: OpenVinoEmbedder) -> None:
    answer = client.embeddings.create(model=MODEL, input=TEXTS)  # the client asks for base64 by itself
    check_near(vectors_of(answer), reference, TEXTS)
    tokens = sum(len(reference.tokenize(text).ids) for text in TEXTS)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (tokens, tokens)
    assert (answer.model, answer.object) == (MODEL, "list")


@pytest.mark.parametrize("as_tokens", [False, True])
def test_each_form_of_input_gives_the_same(client: openai.OpenAI, reference: OpenVinoEmbedder, as_tokens: bool) -> None:
    given: Any = [list(reference.tokenize(text).ids) for text in TEXTS] if as_tokens else TEXTS
    expected = vectors_of(client.embeddings.create(model=MODEL, input=TEXTS))
    several = vectors_of(client.embeddings.create(model=MODEL, input=given))
    np.testing.assert_allclose(several, expected, atol=1e-4)
    for one, row in zip(given, expected, strict=True):
        np.testing.assert_allclose(vectors_of(client.embeddings.create(model=MODEL, input=one))[0], row, atol=1e-4)


@pytest.mark.parametrize("texts", [["one text"], [f"text number {place}" for place in range(40)]])
def test_floats_and_base64_are_the_same_numbers(replica: EmbeddingProcess, texts: list[str]) -> None:
    def asked(**fields: Any) -> list[Any]:
        answer = httpx.post(f"{replica.url}/v1/embeddings", json={"model": MODEL, "input": texts, **fields}, timeout=60)
        assert answer.status_code == 200
        return [item["embedding"] for item in answer.json()["data"]]

    floats = np.array(asked(), dtype=np.float32)
    assert np.array_equal(np.array(asked(encoding_format="float"), dtype=np.float32), floats)
    decoded = [np.frombuffer(base64.b64decode(text), dtype="<f4") for text in asked(encoding_format="base64")]
    assert np.array_equal(np.array(decoded), floats)


async def test_many_async_callers_get_their_own(replica: EmbeddingProcess, reference: OpenVinoEmbedder) -> None:
    texts = [f"question number {place} about rivers" for place in range(60)]
    async with openai.AsyncOpenAI(base_url=f"{replica.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        asked = [client.embeddings.create(model=MODEL, input=text, user="someone") for text in texts]
        answers = await asyncio.gather(*asked)
    check_near(np.vstack([vectors_of(answer) for answer in answers]), reference, texts)


def test_a_full_request(client: openai.OpenAI) -> None:
    texts = [f"text {place}" for place in range(2048)]
    vectors = vectors_of(client.embeddings.create(model=MODEL, input=texts))
    assert len(vectors) == 2048
    alone = vectors_of(client.embeddings.create(model=MODEL, input=[texts[0], texts[2047]]))
    np.testing.assert_allclose(vectors[[0, 2047]], alone, atol=1e-3)


def test_the_end_of_a_long_text_is_left_out_where_that_is_asked_for(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model=MODEL, input="word " * 1000, extra_body={"truncate": True})
    assert answer.usage.prompt_tokens == 256


@pytest.mark.parametrize(
    ("fields", "param", "code", "text"),
    [
        ({}, "input", "missing_required_parameter", "`input` is missing"),
        ({"input": []}, "input", "invalid_value", "at least 1"),
        ({"input": ""}, "input", "invalid_value", "at least 1"),
        ({"input": ["fine", ""]}, "input[1]", "invalid_value", "at least 1"),
        ({"input": [[]]}, "input[0]", "invalid_value", "at least 1"),
        ({"input": 7}, "input", "invalid_type", "found 7"),
        ({"input": ["fine", 7]}, "input[1]", "invalid_type", "found 7"),
        ({"input": {"text": "x"}}, "input", "invalid_type", ""),
        ({"input": [-1]}, "input[0]", "invalid_value", "greater than or equal to 0"),
        ({"input": [1.5]}, "input[0]", "invalid_type", "found 1.5"),
        ({"input": [[101, 40000]]}, "input[0]", "invalid_value", "has the token 40000"),
        ({"input": [101, 40000]}, "input", "invalid_value", "has the token 40000"),
        ({"input": [101] * 257}, "input", "context_length_exceeded", "has 257 tokens"),
        ({"input": "word " * 300}, "input", "context_length_exceeded", "more than the 256 tokens"),
        ({"input": ["a", "word " * 300]}, "input[1]", "context_length_exceeded", "`input[1]` has more"),
        ({"input": ["x"] * 2049}, "input", "invalid_value", "at most 2048"),
        ({"input": [[1]] * 2049}, "input", "invalid_value", "at most 2048"),
        ({"input": "x", "dimensions": 100}, "dimensions", "unsupported_value", "have 384; 100 are not supported"),
        ({"input": "x", "dimensions": 0}, "dimensions", "invalid_value", "greater than or equal to 1"),
        ({"input": "x", "encoding_format": "hex"}, "encoding_format", "invalid_value", "'float' or 'base64'"),
        ({"input": "x", "truncate": "yes"}, "truncate", "invalid_type", "boolean"),
        ({"input": "x", "user": 3}, "user", "invalid_type", "string"),
    ],
)
def test_what_is_refused(replica: EmbeddingProcess, fields: Any, param: str, code: str, text: str) -> None:
    answer = httpx.post(f"{replica.url}/v1/embeddings", json={"model": MODEL, **fields}, timeout=60)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error"), error
    assert (error["param"], error["code"]) == (param, code), error
    assert text in error["message"]


def test_what_is_allowed_at_the_edge(client: openai.OpenAI, replica: EmbeddingProcess) -> None:
    assert len(client.embeddings.create(model=MODEL, input="x", dimensions=384).data[0].embedding) == 384
    answer = httpx.post(f"{replica.url}/v1/embeddings", json={"model": MODEL, "input": "x", "input_type": "query"})
    assert (answer.status_code, answer.headers["x-mesh-ignored"]) == (200, "input_type")
    assert answer.headers["x-mesh-replica"] == replica.config.id


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid_json"),
        (b"[1]", 400, "invalid_json"),
        (b'{"model": "all-minilm", "input": "\xff"}', 400, "invalid_json"),
        (b'{"model": "all-minilm", "input": "\\ud800"}', 400, "invalid_json"),
        (b'{"model": "all-minilm", "input": ' + b"[" * 500 + b"]" * 500 + b"}", 400, "invalid_json"),
        (json.dumps({"model": MODEL, "input": [1] * 200_000}).encode(), 400, "context_length_exceeded"),
        (json.dumps({"model": MODEL, "input": ["", 1] * 100_000}).encode(), 400, None),
        (json.dumps({"model": MODEL, "input": [1] * 2_000_000}).encode(), 413, "request_too_large"),
        (b"x" * (9 << 20), 413, "request_too_large"),
    ],
    ids=["empty", "array", "utf-8", "surrogate", "deep", "many tokens", "many mixed", "many values", "too large"],
)
def test_hostile_bodies(replica: EmbeddingProcess, body: bytes, status: int, code: str | None) -> None:
    answer = httpx.post(f"{replica.url}/v1/embeddings", content=body, timeout=60)
    assert answer.status_code == status, answer.text[:300]
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert code is None or error["code"] == code, error
    assert len(answer.text) < 2000
    assert httpx.get(f"{replica.url}/health").status_code == 200


def test_one_text_of_megabytes_costs_no_time(replica: EmbeddingProcess) -> None:
    body = {"model": MODEL, "input": "many words " * 600_000, "truncate": True}
    answer = httpx.post(f"{replica.url}/v1/embeddings", json=body, timeout=60)
    assert answer.json()["usage"]["prompt_tokens"] == 256


def test_models_paths_and_the_document(client: openai.OpenAI, replica: EmbeddingProcess) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    with pytest.raises(openai.NotFoundError, match="there is no model `other` here"):
        client.embeddings.create(model="other", input="x")
    with pytest.raises(
        openai.NotFoundError, match=r"not served at /v1/chat/completions, but at /v1/embeddings"
    ) as wrong:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}])
    assert (wrong.value.param, wrong.value.code) == ("model", "unsupported_model")
    paths = httpx.get(f"{replica.url}/openapi.json").json()["paths"]
    assert "/v1/embeddings" in paths
    assert "/v1/chat/completions" not in paths


def test_the_numbers_count(client: openai.OpenAI, replica: EmbeddingProcess) -> None:
    def value(name: str) -> float:
        lines = httpx.get(f"{replica.url}/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])

    names = ("mesh_embedding_inputs_total", "mesh_embedding_tokens_total", "mesh_embedding_queue_seconds_count")
    before = [value(name) for name in names]
    usage = client.embeddings.create(model=MODEL, input=["one", "two three"]).usage
    assert [value(name) - old for name, old in zip(names, before, strict=True)] == [2, usage.total_tokens, 1]
    assert value("mesh_ingress_in_flight") == 0
    assert value("mesh_embedding_waiting_tokens") == 0


def test_the_gateway_sends_it_there(gateway: GatewayProcess, client: openai.OpenAI) -> None:
    eventually(
        lambda: [one["id"] for one in httpx.get(f"{gateway.url}/v1/models").json()["data"]] == [MODEL],
        timeout_s=30,
        what="the gateway knows the model",
    )
    edge = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, timeout=60)
    through = edge.embeddings.create(model=f"texts/{MODEL}", input=TEXTS)
    direct = client.embeddings.create(model=MODEL, input=TEXTS)
    np.testing.assert_allclose(vectors_of(through), vectors_of(direct), atol=1e-4)
    assert through.usage == direct.usage
    with pytest.raises(openai.NotFoundError, match="not served at /v1/completions, but at /v1/embeddings"):
        edge.completions.create(model=MODEL, prompt="x")
    with pytest.raises(openai.BadRequestError, match="`dimensions`"):
        edge.embeddings.create(model=MODEL, input="x", dimensions=3)
