"""One address for the models of all applications, asked by OpenAI's own client."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import httpx
import openai
import pytest

from serving.local.etcd import EtcdCluster
from tests.integration.gateway.conftest import StartGateway, StartReplica
from tests.support.etcd_server import StartEtcd
from tests.support.llm_serving import MODEL, GatewayProcess
from tests.support.waiting import eventually

QUESTION: Any = [{"role": "user", "content": "What is the capital of Japan?"}]
STORY: Any = [{"role": "user", "content": "Tell a story about a red fox."}]
# Eight of them: a single one would be over when a busy machine looks away for two seconds.
LONG: Any = {"model": MODEL, "messages": STORY, "max_tokens": 1900, "ignore_eos": True, "n": 8}


@pytest.fixture
def etcd(own_etcd: StartEtcd) -> EtcdCluster:
    return own_etcd()


def client_of(gateway: GatewayProcess, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, timeout=60, **options)


def wait_models(gateway: GatewayProcess, *names: str) -> None:
    def there() -> bool:
        listed = httpx.get(f"{gateway.url}/v1/models").json()["data"]
        return {one["id"] for one in listed} == set(names)

    eventually(there, timeout_s=60, what=f"models {names}")


def test_answers_are_those_of_the_replica(start_replica: StartReplica, start_gateway: StartGateway) -> None:
    replica, gateway = start_replica(), start_gateway()
    wait_models(gateway, MODEL)
    direct = openai.OpenAI(base_url=f"{replica.url}/v1", api_key="none", max_retries=0)
    client = client_of(gateway)
    options: Any = {"model": MODEL, "messages": QUESTION, "temperature": 0}
    answer = client.chat.completions.create(**options)
    assert answer.choices[0].message.content == direct.chat.completions.create(**options).choices[0].message.content
    assert "Tokyo" in (answer.choices[0].message.content or "")
    parts = client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True})
    chunks = list(parts)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == answer.choices[0].message.content
    assert chunks[-1].usage == answer.usage
    completion = client.completions.create(model=MODEL, prompt="<|im_start|>user\nHello<|im_end|>\n", max_tokens=3)
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 3


def test_models_of_several_applications(start_replica: StartReplica, start_gateway: StartGateway) -> None:
    start_replica("chat-r1-0", application="one")
    start_replica("chat-r1-1", application="two")
    gateway = start_gateway()
    wait_models(gateway, "one/tiny-chat", "two/tiny-chat")
    client = client_of(gateway)
    with pytest.raises(openai.BadRequestError, match="several applications"):
        client.chat.completions.create(model=MODEL, messages=QUESTION)
    answer = client.chat.completions.create(model="two/tiny-chat", messages=QUESTION, temperature=0)
    assert answer.model == MODEL
    assert client.models.retrieve("one/tiny-chat").owned_by == "default/one"
    with pytest.raises(openai.NotFoundError, match=r"did you mean `one/tiny-chat`"):
        client.chat.completions.create(model="one/tiny-chta", messages=QUESTION)


def test_wrong_requests_are_answered_at_the_edge(start_gateway: StartGateway) -> None:
    gateway = start_gateway(max_body_bytes=1000)
    path = f"{gateway.url}/v1/chat/completions"
    for content, status, code in (
        (b"{", 400, "invalid_json"),
        (b"[" * 500, 400, "invalid_json"),
        (b"\xff", 400, "invalid_json"),
        (b"{}", 400, None),
        (b'{"model": "x"}', 404, "model_not_found"),
        (b'{"model": "' + b"x" * 1000 + b'"}', 413, "request_too_large"),
    ):
        answer = httpx.post(path, content=content)
        assert answer.status_code == status, answer.text
        error = answer.json()["error"]
        assert error["message"]
        if code is not None:
            assert error["code"] == code
    assert httpx.get(path).status_code == 405
    assert httpx.get(f"{gateway.url}/v3").status_code == 404
    health = httpx.get(f"{gateway.url}/health")
    assert (health.status_code, health.json()["status"]) == (200, "ready")
    metrics = httpx.get(f"{gateway.url}/metrics").text
    assert 'mesh_gateway_requests_total{model="",path="/v1/chat/completions",status="413"} 1.0' in metrics


def test_a_killed_replica_is_not_noticed_by_whole_answers(
    start_replica: StartReplica, start_gateway: StartGateway
) -> None:
    victim, _ = start_replica("chat-r1-0"), start_replica("chat-r1-1")
    gateway = start_gateway()
    wait_models(gateway, MODEL)
    client = client_of(gateway)
    failed: list[Exception] = []
    answered = [0]
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                answer = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0)
                assert "Tokyo" in (answer.choices[0].message.content or "")
                answered[0] += 1
            except Exception as error:  # noqa: BLE001 - whatever it is, it is counted
                failed.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: answered[0] > 40, timeout_s=60, what="traffic before")
    victim.kill()
    before = answered[0]
    eventually(lambda: answered[0] > before + 80, timeout_s=60, what="traffic after")
    stop.set()
    for thread in threads:
        thread.join()
    assert failed == []


def test_a_stream_whose_replica_is_killed_ends_with_an_error(
    start_replica: StartReplica, start_gateway: StartGateway
) -> None:
    replica, gateway = start_replica(), start_gateway()
    wait_models(gateway, MODEL)
    body = {**LONG, "stream": True}
    events: list[str] = []
    with httpx.stream("POST", f"{gateway.url}/v1/chat/completions", json=body, timeout=60) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                events.append(line.removeprefix("data: "))
                if len(events) == 3:
                    replica.kill()
    assert events[-1] != "[DONE]"
    assert "broke off" in json.loads(events[-1])["error"]["message"]


def test_drained_replicas_leave_without_a_failure(start_replica: StartReplica, start_gateway: StartGateway) -> None:
    leaving, _ = start_replica("chat-r1-0"), start_replica("chat-r1-1")
    gateway = start_gateway()
    wait_models(gateway, MODEL)
    client = client_of(gateway)
    leaving.terminate()
    until = time.monotonic() + 3
    while time.monotonic() < until:
        answer = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0)
        assert "Tokyo" in (answer.choices[0].message.content or "")
    leaving.wait_state("drained")


def test_without_etcd_it_goes_on(start_replica: StartReplica, start_gateway: StartGateway, etcd: EtcdCluster) -> None:
    start_replica()
    gateway = start_gateway()
    wait_models(gateway, MODEL)
    etcd.kill()
    client = client_of(gateway)
    for _ in range(20):
        client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0)
    eventually(lambda: httpx.get(f"{gateway.url}/health").json()["discovery_stale"], timeout_s=30, what="it says so")


def test_a_client_that_goes_away_ends_its_generation(start_replica: StartReplica, start_gateway: StartGateway) -> None:
    replica, gateway = start_replica(), start_gateway()
    wait_models(gateway, MODEL)
    metrics = f"http://{replica.report.metrics_address}/metrics"

    def number(name: str) -> float:
        text = httpx.get(metrics).text
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name} "))

    body = {**LONG, "stream": True}
    with httpx.stream("POST", f"{gateway.url}/v1/chat/completions", json=body, timeout=60) as answer:
        lines = answer.iter_lines()  # held: with the iterator the answer would end
        next(lines)
        eventually(lambda: number("mesh_llm_engine_running") > 0, timeout_s=60, what="the generation's beginning")
    eventually(
        lambda: number("mesh_llm_requests_cancelled_total") > 0 and not number("mesh_llm_engine_running"),
        timeout_s=60,
        what="the generation's end before its last token",
    )


def test_it_finishes_what_runs_before_it_ends(start_replica: StartReplica, start_gateway: StartGateway) -> None:
    start_replica()
    gateway = start_gateway()
    wait_models(gateway, MODEL)
    chunks = client_of(gateway).chat.completions.create(
        model=MODEL, messages=STORY, stream=True, max_tokens=600, extra_body={"ignore_eos": True}
    )
    first = next(chunks)
    assert first.choices
    gateway.terminate()
    rest = list(chunks)
    assert rest[-1].choices[0].finish_reason == "length"
    assert gateway.process.wait(120) == 0
