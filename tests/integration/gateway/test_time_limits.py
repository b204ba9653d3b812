"""Whose time is over: a client's deadline reaches the replica, and the gateway's own end is told to streams."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import pytest

from serving.local.etcd import EtcdCluster
from tests.integration.gateway.conftest import StartGateway, StartReplica
from tests.integration.gateway.raw_replica import RawReplica, raw_replica, wait_heard, whole
from tests.support.etcd_server import StartEtcd
from tests.support.llm_serving import MODEL, GatewayProcess, LlmProcess
from tests.support.waiting import eventually

CHAT = "/v1/chat/completions"
STORY: Any = {"model": MODEL, "messages": [{"role": "user", "content": "Tell a story."}], "temperature": 0}
LONG: Any = {**STORY, "max_tokens": 1900, "ignore_eos": True, "n": 8}


@pytest.fixture
def etcd(own_etcd: StartEtcd) -> EtcdCluster:
    return own_etcd()


def wait_model(gateway: GatewayProcess) -> None:
    def there() -> bool:
        return bool(httpx.get(f"{gateway.url}/v1/models").json()["data"])

    eventually(there, timeout_s=60, what="the model")


def events_of(answer: httpx.Response) -> list[str]:
    return [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]


def number(replica: LlmProcess, name: str) -> float:
    text = httpx.get(f"http://{replica.report.metrics_address}/metrics").text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name} "))


def test_a_deadline_ends_the_generation(start_replica: StartReplica, start_gateway: StartGateway) -> None:
    replica, gateway = start_replica(), start_gateway()
    wait_model(gateway)
    within = {"x-request-timeout": "1.0"}
    for base in (gateway.url, replica.url):
        cancelled = number(replica, "mesh_llm_requests_cancelled_total")
        answer = httpx.post(base + CHAT, json=LONG, headers=within, timeout=60)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
        answer = httpx.post(base + CHAT, json={**LONG, "stream": True}, headers=within, timeout=60)
        last = answer.json() if answer.status_code == 504 else json.loads(events_of(answer)[-1])  # as it had begun
        assert last["error"]["code"] == "timeout"
        eventually(
            lambda: not number(replica, "mesh_llm_engine_running"), timeout_s=60, what="the generations were ended"
        )
        assert number(replica, "mesh_llm_requests_cancelled_total") > cancelled
        good = httpx.post(base + CHAT, json=STORY, headers={"x-request-timeout": "60"}, timeout=60)
        assert good.status_code == 200
        for wrong in ("soon", "0", "-1", "1e9"):
            refused = httpx.post(base + CHAT, json=STORY, headers={"x-request-timeout": wrong})
            assert refused.status_code == 400
            assert "x-request-timeout" in refused.json()["error"]["message"]
    assert "mesh_gateway_ejected 0.0" in httpx.get(f"{gateway.url}/metrics").text  # it is no fault of the replica


async def test_what_is_left_goes_to_the_replica(start_gateway: StartGateway, etcd: EtcdCluster) -> None:
    gateway = start_gateway()
    cases: list[tuple[dict[str, str], float | None]] = [
        ({"x-request-timeout": "20"}, 20.0),
        ({"x-envoy-expected-rq-timeout-ms": "17000"}, 17.0),
        ({"x-envoy-expected-rq-timeout-ms": "17000", "x-request-timeout": "15"}, 15.0),
        ({"x-envoy-expected-rq-timeout-ms": "0"}, None),
        ({"x-stainless-read-timeout": "3"}, None),  # between two pieces of an answer: no deadline
    ]
    async with (
        raw_replica(etcd.config(), "raw", whole("200 OK"), model="raw") as replica,
        httpx.AsyncClient(timeout=30) as client,
    ):
        await wait_heard(gateway.url, etcd.config())
        for headers, at_most_s in cases:
            answer = await client.post(gateway.url + CHAT, json={"model": "raw"}, headers=headers)
            assert answer.status_code == 200
            head = replica.requests[-1].partition(b"\r\n\r\n")[0].decode().lower()
            said = [line.partition(": ")[2] for line in head.splitlines() if line.startswith("x-request-timeout")]
            if at_most_s is None:
                assert said == []
            else:
                assert 0 < float(said[0]) <= at_most_s


async def test_what_the_drain_timeout_cuts_off_is_told(start_gateway: StartGateway, etcd: EtcdCluster) -> None:
    async def endless(_replica: RawReplica, body: bytes, writer: asyncio.StreamWriter) -> None:
        kind = b"text/event-stream" if json.loads(body).get("stream") else b"application/json"
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ntransfer-encoding: chunked\r\n\r\n" % kind)
        while not writer.is_closing():
            writer.write(b'10\r\ndata: {"n": 1}\n\n\r\n')
            await writer.drain()
            await asyncio.sleep(0.02)

    gateway = start_gateway(drain_timeout_s=0.5, leave_s=0.0)
    async with raw_replica(etcd.config(), "raw", endless, model="raw"), httpx.AsyncClient(timeout=30) as client:
        await wait_heard(gateway.url, etcd.config())
        streamed = asyncio.create_task(client.post(gateway.url + CHAT, json={"model": "raw", "stream": True}))
        other = asyncio.create_task(client.post(gateway.url + CHAT, json={"model": "raw"}))
        await asyncio.to_thread(eventually, lambda: _running(gateway) == 3, timeout_s=60, what="both run")
        began = time.monotonic()
        gateway.terminate()
        events = events_of(await streamed)
        with pytest.raises(httpx.RemoteProtocolError):  # half of an answer must not look like one
            await other
        assert time.monotonic() - began < 10
    assert json.loads(events[-2]) == {"n": 1}
    error = json.loads(events[-1])["error"]
    assert (error["code"], "drain timeout" in error["message"]) == ("unavailable", True)
    assert gateway.process.wait(120) == 0


def _running(gateway: GatewayProcess) -> float:
    """With the question itself."""
    text = httpx.get(f"{gateway.url}/metrics").text
    return float(next(line for line in text.splitlines() if line.startswith("mesh_gateway_in_flight ")).split()[1])
