"""Streams whose replica is killed in their middle, and that go on at another one: as if nothing had happened."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import httpx
import psutil
import pytest

from serving._proto import records_pb2 as pb
from serving.discovery import Registrar
from serving.llm.settings import content
from serving.local.etcd import EtcdCluster
from tests.integration.gateway.raw_replica import RawReplica, raw_replica, wait_heard, whole
from tests.support.llm_serving import MODEL, GatewayProcess, LlmProcess, llm_config

CHAT = "/v1/chat/completions"
STORY: Any = [{"role": "user", "content": "Tell a story about a red fox."}]
LONG: Any = {"max_tokens": 900, "ignore_eos": True}
CALL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "minLength": 250}},
            "required": ["city"],
        },
    },
}
REQUESTS: Any = {
    "greedy": (CHAT, {"messages": STORY, "temperature": 0, **LONG}),
    "seeded": (CHAT, {"messages": STORY, "temperature": 0.8, "seed": 7, "presence_penalty": 0.5, **LONG}),
    "completion": ("/v1/completions", {"prompt": "Once there was", "echo": True, "temperature": 0, **LONG}),
    "call": (CHAT, {"messages": STORY, "temperature": 0, "tools": [CALL], "tool_choice": "required", **LONG}),
    "random": (CHAT, {"messages": STORY, **LONG}),
}
HELD_LINES = 8
STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-mesh-resume: told\r\ntransfer-encoding: chunked\r\n\r\n"
)
STEP = b'data: {"n": 1}\n\n: mesh {"tokens":[5],"head":{"id":"a","created":1,"prompt":"b"}}\n\n'


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory, etcd: EtcdCluster) -> Iterator[tuple[LlmProcess, LlmProcess]]:
    """One that is in discovery, and will be killed; and one that is not yet, so that no stream begins there."""
    folder = tmp_path_factory.mktemp("replicas")
    with ExitStack() as stack:
        victim = LlmProcess(folder, llm_config(folder, name="victim", etcd=etcd.config()))
        stack.callback(victim.end)
        kept = LlmProcess(folder, llm_config(folder, name="kept"))
        stack.callback(kept.end)
        victim.wait_state("ready", registered=True, timeout_s=120)
        kept.wait_state("ready", timeout_s=120)
        yield victim, kept


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, etcd: EtcdCluster) -> Iterator[GatewayProcess]:
    running = GatewayProcess(
        tmp_path_factory.mktemp("gateway"), etcd.config(), resume_streams=True, leave_s=0.0, hold_s=30.0
    )
    yield running
    running.end()


class Told:
    """The events of a stream."""

    def __init__(self, lines: list[str]) -> None:
        assert not [line for line in lines if line and not line.startswith("data: ")]
        events = [line.removeprefix("data: ") for line in lines if line]
        self.done = events[-1] == "[DONE]"
        self.events = [json.loads(event) for event in events if event != "[DONE]"]

    @property
    def choices(self) -> list[Any]:
        return [choice for event in self.events for choice in event.get("choices", [])]

    @property
    def text(self) -> str:
        return "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in self.choices)

    @property
    def calls(self) -> list[Any]:
        return [call for choice in self.choices for call in choice.get("delta", {}).get("tool_calls", [])]

    @property
    def summary(self) -> Any:
        """What must be the same, however the stream came."""
        usage = self.events[-1]["usage"]
        return {
            "text": self.text,
            "arguments": "".join(call["function"]["arguments"] for call in self.calls),
            "names": [call["function"]["name"] for call in self.calls if "id" in call],
            "roles": [choice["delta"]["role"] for choice in self.choices if choice.get("delta", {}).get("role")],
            "finishes": [choice["finish_reason"] for choice in self.choices if choice["finish_reason"]],
            "usage": [usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")],
            "done": self.done,
            "answers": len({(event["id"], event["created"]) for event in self.events}),
        }


def stream(base: str, kind: str, begun: threading.Barrier | None = None) -> Told:
    """`begun` is waited for in the middle of the stream."""
    path, fields = REQUESTS[kind]
    body = {"model": MODEL, "stream": True, "stream_options": {"include_usage": True}, **fields}
    with httpx.stream("POST", base + path, json=body, timeout=120) as answer:
        assert answer.status_code == 200, answer.read()
        assert "x-mesh-resume" not in answer.headers
        lines = []
        for line in answer.iter_lines():
            lines.append(line)
            if len(lines) == HELD_LINES and begun is not None:
                begun.wait(100)
        return Told(lines)


def resumed(gateway: GatewayProcess) -> float:
    text = httpx.get(f"{gateway.url}/metrics").text
    return float(next(line for line in text.splitlines() if line.startswith("mesh_gateway_resumed_total")).split()[-1])


def slowed(replica: LlmProcess) -> None:
    """On a busy machine it is the last one to get the processor, so that no answer is whole before the kill."""
    for thread in psutil.Process(replica.pid).threads():
        os.setpriority(os.PRIO_PROCESS, thread.id, 19)


def record_of(replica: LlmProcess) -> pb.Endpoint:
    """As it would write it itself."""
    config = replica.config
    return pb.Endpoint(
        id=config.id,
        address=replica.report.address,
        protocol="openai-http",
        role="direct",
        namespace=config.namespace,
        application=config.application,
        deployment=config.deployment,
        models=[pb.ModelRecord(name=MODEL, versions=["1"])],
        generation=config.generation,
        revision=config.revision,
        state="ready",
        content=content(config),
    )


async def test_the_answers_are_those_of_unbroken_streams(
    gateway: GatewayProcess, etcd: EtcdCluster, replicas: tuple[LlmProcess, LlmProcess]
) -> None:
    victim, kept = replicas
    determined = [kind for kind in REQUESTS if kind != "random"]
    wanted = {kind: (await asyncio.to_thread(stream, kept.url, kind)).summary for kind in determined}
    for path, fields in REQUESTS.values():  # it has compiled the schema: all streams begin together then
        asked = {"model": MODEL, **fields, "max_tokens": 2}
        warm = await asyncio.to_thread(httpx.post, victim.url + path, json=asked, timeout=60)
        assert warm.status_code == 200
    slowed(victim)
    begun = threading.Barrier(len(REQUESTS) + 1)
    with ThreadPoolExecutor(len(REQUESTS) + 1) as pool:
        running = {kind: pool.submit(stream, gateway.url, kind, begun) for kind in REQUESTS}
        await asyncio.wrap_future(pool.submit(begun.wait, 100))
        victim.kill()
        registrar = Registrar(etcd.config(), record_of(kept))
        await registrar.start()
        told = {kind: await asyncio.wrap_future(run) for kind, run in running.items()}
        await registrar.close()
    assert {kind: told[kind].summary for kind in determined} == wanted
    assert all(one["answers"] == 1 for one in wanted.values())
    assert all(wanted[kind]["usage"][1] == LONG["max_tokens"] for kind in determined if kind != "call")
    assert len(wanted["call"]["arguments"]) > 250
    assert "broke off" in told["random"].events[-1]["error"]["message"]  # another draw would be another text
    assert not told["random"].done
    assert resumed(gateway) == len(determined)


@pytest.mark.parametrize(("said", "passed"), [("true", True), ("false", False), ("", True)])
async def test_a_request_says_whether_it_wants_that(
    gateway: GatewayProcess, etcd: EtcdCluster, said: str, passed: bool
) -> None:
    async with raw_replica(etcd.config(), f"raw-{said}", whole("200 OK"), model=f"raw-{said}") as replica:
        await wait_heard(gateway.url, etcd.config())
        headers = {"x-mesh-resume-stream": said} if said else {}
        async with httpx.AsyncClient(timeout=30) as client:
            await client.post(gateway.url + CHAT, json={"model": f"raw-{said}"}, headers=headers)
            wrong = await client.post(gateway.url + CHAT, json={}, headers={"x-mesh-resume-stream": "maybe"})
        assert (b"x-mesh-resume: tell" in replica.requests[0].lower()) == passed
        assert wrong.status_code == 400


async def test_a_replica_that_leaves_hands_its_streams_over(gateway: GatewayProcess, etcd: EtcdCluster) -> None:
    """What its own drain timeout cuts off ends with an error event, but the answer may go on elsewhere."""

    async def leaves(_replica: RawReplica, body: bytes, writer: asyncio.StreamWriter) -> None:
        piece = STEP + b'data: {"error": {"code": "unavailable"}}\n\n'
        if json.loads(body).get("mesh_resume"):
            piece = b'data: {"n": 2}\n\n: mesh {"tokens":[6],"finish":"stop"}\n\ndata: [DONE]\n\n'
        writer.write(STREAM + b"%x\r\n%s\r\n0\r\n\r\n" % (len(piece), piece))

    async with AsyncExitStack() as stack:
        for name in ("four", "five"):
            await stack.enter_async_context(raw_replica(etcd.config(), name, leaves, model="leaving"))
        await wait_heard(gateway.url, etcd.config())
        async with httpx.AsyncClient(timeout=30) as client:
            answer = await client.post(gateway.url + CHAT, json={"model": "leaving"})
    assert answer.text == 'data: {"n": 1}\n\ndata: {"n": 2}\n\ndata: [DONE]\n\n'


async def test_a_stream_that_kills_replicas_does_not_go_round(gateway: GatewayProcess, etcd: EtcdCluster) -> None:
    """The second one breaks off without a new token, so no third one is asked."""

    async def dies(_replica: RawReplica, body: bytes, writer: asyncio.StreamWriter) -> None:
        begun = json.loads(body).get("mesh_resume")
        piece = b"data: half an ev" if begun else STEP + b"data: half"
        writer.write(STREAM + b"%x\r\n%s\r\n" % (len(piece), piece))
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.transport.abort()

    async with AsyncExitStack() as stack:
        made = [
            await stack.enter_async_context(raw_replica(etcd.config(), name, dies, model="deadly"))
            for name in ("one", "two", "three")
        ]
        await wait_heard(gateway.url, etcd.config())
        async with httpx.AsyncClient(timeout=30) as client:
            answer = await client.post(gateway.url + CHAT, json={"model": "deadly"})
        lines = [line for line in answer.text.splitlines() if line]
        assert lines[0] == 'data: {"n": 1}'
        assert "broke off" in lines[1]
        assert len(lines) == 2
        asked = [request for replica in made for request in replica.requests]
        assert len(asked) == 2
        begun = [json.loads(request.partition(b"\r\n\r\n")[2]).get("mesh_resume") for request in asked]
        assert {"id": "a", "created": 1, "prompt": "b", "tokens": [5], "finish": None} in begun
