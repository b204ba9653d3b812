"""Language and embedding models as users deploy them: the examples behind the gateway, asked by OpenAI's own client."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from serving import LlmDeployment, MeshClient, ProxyDeployment, Resources, Rollout, SemanticCacheDeployment
from serving.local.state import load_state
from serving.sdk import Canary, CanaryStep, ClientConfig, Match, load_spec
from tests.support.callers import Callers
from tests.support.mesh import ROOT, RunningMesh
from tests.support.waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
EXAMPLE = ROOT / "examples" / "chat" / "app.yaml"
QUESTION: Any = [{"role": "user", "content": "What is the capital of Japan?"}]


@pytest.fixture
def chat(client: MeshClient) -> Iterator[MeshClient]:
    client.deploy(load_spec(EXAMPLE), wait=True, timeout_s=180)
    yield client
    client.delete("chat", wait=True)


def openai_client(mesh: RunningMesh, *, max_retries: int = 0) -> openai.OpenAI:
    gateway = load_state(mesh.mesh_dir).gateway
    return openai.OpenAI(base_url=f"http://{gateway}/v1", api_key="none", max_retries=max_retries, timeout=60)


def ask(client: openai.OpenAI) -> str:
    answer = client.chat.completions.create(model="tiny-chat", messages=QUESTION, temperature=0)
    return answer.choices[0].message.content or ""


class Asking(Callers):
    """Threads that ask all the time, each with its own connection; `wrong` holds what went wrong."""

    def __init__(self, mesh: RunningMesh, threads: int) -> None:
        super().__init__(threads)
        self._mesh = mesh
        self.answers = 0
        self.wrong: list[str] = []

    def call(self, number: int) -> None:
        client = openai_client(self._mesh)
        while not self.over.is_set():
            try:
                text = ask(client)
                wrong = "" if "Tokyo" in text else f"answered {text!r}"
            except openai.OpenAIError as error:
                wrong = f"{number}: {type(error).__name__}: {error}"
            with self.lock:
                self.answers += not wrong
                self.wrong += [wrong] if wrong else []


def test_the_example(mesh: RunningMesh, chat: MeshClient) -> None:
    """Its answers, a killed replica, a killed gateway, a new revision under traffic."""
    client = openai_client(mesh)
    assert "Tokyo" in ask(client)
    (endpoint,) = chat.endpoints("chat")
    assert endpoint.protocol == "openai-http"
    direct = openai.OpenAI(base_url=f"http://{endpoint.address}/v1", api_key="none", max_retries=0)
    assert ask(direct) == ask(client)

    os.kill(endpoint.pid, signal.SIGKILL)
    eventually(
        lambda: [one.pid for one in chat.endpoints("chat")] not in ([], [endpoint.pid]),
        timeout_s=60,
        what="the replica comes back",
    )
    assert "Tokyo" in ask(client)

    killed = mesh.kill("gateway")
    mesh.wait_replaced(killed)
    assert "Tokyo" in ask(openai_client(mesh, max_retries=20))

    with Asking(mesh, 3) as asking:
        eventually(lambda: asking.answers > 20, timeout_s=60, what="traffic before the new revision")
        spec = load_spec(EXAMPLE)
        (deployment,) = spec.deployments
        assert isinstance(deployment, LlmDeployment)
        chat.deploy(replace(spec, deployments=[replace(deployment, max_requests=64)]), wait=True, timeout_s=180)
        after = asking.answers
        eventually(lambda: asking.answers > after + 20, timeout_s=60, what="traffic after it")
    assert asking.wrong == []
    assert [one.revision for one in chat.endpoints("chat")] == [2]


TEXTS = ["a cat", "a kitten", "a tax return"]


@pytest.mark.usefixtures("chat")
def test_embeddings_beside_it(mesh: RunningMesh, client: MeshClient) -> None:
    """The example of vectors in the same mesh: over both protocols, directly, through the gateway and a gRPC proxy."""
    example = load_spec(ROOT / "examples" / "embedding" / "app.yaml")
    proxy = ProxyDeployment("grpc", resources=Resources(cpus=0.1))
    client.deploy(replace(example, deployments=[*example.deployments, proxy]), wait=True, timeout_s=180)
    try:
        edge = openai_client(mesh, max_retries=20)
        answer = edge.embeddings.create(model="all-minilm", input=TEXTS)
        vectors = np.array([item.embedding for item in answer.data], dtype=np.float32)
        cat, kitten, tax = vectors
        assert cat @ kitten > 0.7 > 0.3 > cat @ tax
        assert {model.id for model in edge.models.list()} == {"tiny-chat", "all-minilm"}

        found = {one.protocol: one for one in client.endpoints("embedding")}
        assert set(found) == {"openai-http", "kserve-grpc"}
        assert len({one.pid for one in found.values()}) == 1
        texts = np.array([text.encode() for text in TEXTS], dtype=object)
        for via in ("direct", "proxy"):
            with MeshClient(mesh.connection, client_config=ClientConfig(via=via)) as asking:
                outputs = asking.infer("embedding", "all-minilm", {"text": texts})
                np.testing.assert_allclose(outputs["embedding"], vectors, atol=1e-4)

        with pytest.raises(openai.NotFoundError, match="`tiny-chat` is not served at /v1/embeddings, but at /v1/chat"):
            edge.embeddings.create(model="tiny-chat", input="x")
        with pytest.raises(openai.NotFoundError, match="`all-minilm` is not served at /v1/chat/completions, but at"):
            edge.chat.completions.create(model="all-minilm", messages=QUESTION)
        assert "Tokyo" in ask(edge)

        os.kill(found["openai-http"].pid, signal.SIGKILL)
        eventually(
            lambda: (
                {one.protocol for one in client.endpoints("embedding") if one.pid != found["openai-http"].pid}
                == {"openai-http", "kserve-grpc"}
            ),
            timeout_s=60,
            what="the replica comes back with both endpoints",
        )
        assert len(edge.embeddings.create(model="all-minilm", input=TEXTS).data) == 3
    finally:
        client.delete("embedding", wait=True)


class AskingProxies(Callers):
    """Threads that look up a proxy before each request, and again when the one that they found takes none."""

    def __init__(self, mesh: RunningMesh, threads: int) -> None:
        super().__init__(threads)
        self._mesh = mesh
        self.answers = 0
        self.wrong: list[str] = []

    def call(self, number: int) -> None:
        with MeshClient(self._mesh.connection) as discovery:
            while not self.over.is_set():
                try:
                    text = self._ask(discovery)
                    wrong = "" if "Tokyo" in text else f"answered {text!r}"
                except openai.OpenAIError as error:
                    wrong = f"{number}: {type(error).__name__}: {error}"
                with self.lock:
                    self.answers += not wrong
                    self.wrong += [wrong] if wrong else []

    @staticmethod
    def _ask(discovery: MeshClient) -> str:
        for _ in range(3):
            with proxy_client(discovery) as client:
                try:
                    return ask(client)
                except openai.InternalServerError as error:
                    if "is draining" not in str(error):
                        raise
                except openai.APIConnectionError as error:
                    if not isinstance(error.__cause__, httpx.ConnectError):  # else nothing was sent
                        raise
        raise openai.OpenAIError("three proxies in a row took no request")


def proxy_client(discovery: MeshClient) -> openai.OpenAI:
    """Of the application's HTTP proxy, as discovery knows it."""
    found = [one for one in discovery.endpoints("chat", role="proxy") if one.state == "ready"]
    assert {one.protocol for one in found} == {"openai-http"}
    return openai.OpenAI(base_url=f"http://{found[-1].address}/v1", api_key="none", max_retries=0, timeout=60)


def test_the_applications_own_http_proxy(mesh: RunningMesh, client: MeshClient) -> None:
    """Asked at its address from discovery; killed; replaced together with the model's replica under traffic."""
    spec = load_spec(EXAMPLE)
    (model,) = spec.deployments
    assert isinstance(model, LlmDeployment)
    proxy = ProxyDeployment("http", protocol="http", resources=Resources(cpus=0.1))
    client.deploy(replace(spec, deployments=[model, proxy]), wait=True, timeout_s=180)
    try:
        asking = proxy_client(client)
        assert "Tokyo" in ask(asking)
        stream = asking.chat.completions.create(model="tiny-chat", messages=QUESTION, temperature=0, stream=True)
        assert "Tokyo" in "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert [one.id for one in asking.models.list()] == ["tiny-chat"]

        (before,) = client.endpoints("chat", role="proxy")
        os.kill(before.pid, signal.SIGKILL)
        eventually(
            lambda: [one.pid for one in client.endpoints("chat", role="proxy")] not in ([], [before.pid]),
            timeout_s=90,
            what="the proxy comes back, and registers again",
        )
        assert "Tokyo" in ask(proxy_client(client))

        with AskingProxies(mesh, 2) as callers:
            eventually(lambda: callers.answers > 10, timeout_s=60, what="traffic before the new revision")
            changed = [replace(model, max_requests=64), replace(proxy, hold=10)]
            client.deploy(replace(spec, deployments=changed), wait=True, timeout_s=180)
            after = callers.answers
            eventually(lambda: callers.answers > after + 10, timeout_s=60, what="traffic after it")
        assert callers.wrong == []
        assert {one.revision for one in client.endpoints("chat")} == {2}
    finally:
        client.delete("chat", wait=True)


def test_a_canary_of_the_model(mesh: RunningMesh, client: MeshClient) -> None:
    """A new revision beside the old one: by a header, with its weight, and in the end alone."""
    spec = load_spec(EXAMPLE)
    (model,) = spec.deployments
    assert isinstance(model, LlmDeployment)
    asking = openai_client(mesh)
    canary = Canary((CanaryStep(0.01),), key="user", match=(Match("x-canary", "1"),))
    careful = replace(model, rollout=Rollout(canary=canary))

    def answered_by(headers: dict[str, str] | None = None) -> str:
        answer = asking.chat.completions.with_raw_response.create(
            model="tiny-chat", messages=QUESTION, temperature=0, extra_headers=headers
        )
        assert "Tokyo" in (answer.parse().choices[0].message.content or "")
        return str(answer.headers["x-mesh-replica"]).rpartition("-")[0]

    client.deploy(replace(spec, deployments=[careful]), wait=True, timeout_s=180)
    try:
        eventually(lambda: answered_by() == "chat-r1", timeout_s=60, what="the gateway knows the model")
        client.deploy(replace(spec, deployments=[replace(careful, max_requests=64)]))
        eventually(lambda: answered_by({"x-canary": "1"}) == "chat-r2", timeout_s=120, what="the new one by the header")
        assert {answered_by({"x-canary": "1"}) for _ in range(10)} == {"chat-r2"}
        assert {answered_by({"user": "anna"}) for _ in range(10)} == {"chat-r1"}, "one in ten thousand is another"
        assert client.promote_rollout("chat", full=True)
        eventually(lambda: answered_by({"user": "anna"}) == "chat-r2", timeout_s=120, what="the new one for all")
        eventually(lambda: client.status("chat").ready, timeout_s=120, what="the end of the rollout")
        assert {one.revision for one in client.endpoints("chat")} == {2}
    finally:
        client.delete("chat", wait=True)


def test_answers_are_kept(mesh: RunningMesh, client: MeshClient) -> None:
    """By a semantic cache, which a new revision of it takes over."""
    spec = load_spec(EXAMPLE)
    cache = SemanticCacheDeployment("answers", resources=Resources(cpus=0.1))
    asking = openai_client(mesh)

    def kept(question: Any = QUESTION) -> tuple[str | None, str]:
        answer = asking.chat.completions.with_raw_response.create(model="tiny-chat", messages=question, temperature=0)
        return answer.headers.get("x-mesh-cache"), answer.parse().choices[0].message.content or ""

    client.deploy(replace(spec, deployments=[*spec.deployments, cache]), wait=True, timeout_s=180)
    eventually(lambda: kept()[0] == "exact", timeout_s=60, what="an answer from the cache")
    assert "Tokyo" in kept()[1]
    assert kept([{"role": "user", "content": "Please tell me: what is the capital of Japan?"}])[0] == "semantic"
    before = {one.id for one in client.endpoints("chat")}

    peru: Any = [{"role": "user", "content": "What is the capital of Peru?"}]
    stream = asking.chat.completions.create(model="tiny-chat", messages=peru, temperature=0, stream=True)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    eventually(lambda: kept(peru) == ("exact", streamed), timeout_s=60, what="a stream is kept, with its usage")

    changed = replace(cache, threshold=0.9)
    client.deploy(replace(spec, deployments=[*spec.deployments, changed]), wait=True, timeout_s=180)
    after = {one.id for one in client.endpoints("chat")}
    assert len(after) == len(before) == 2
    assert len(after & before) == 1, "the model's replica stays"
    eventually(lambda: kept()[0] is not None, timeout_s=60, what="the gateway knows the new cache")
    assert kept()[0] == "exact"
    client.delete("chat", wait=True)
