"""An application's HTTP proxy: real etcd, real replicas of the tiny chat model, OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from serving._proto import records_pb2 as pb
from serving.access.api_key import new_key, secret_hash
from serving.config import TlsConfig
from serving.http_proxy.replica import HttpProxyReplica
from serving.local.etcd import EtcdCluster
from serving.store import EtcdClient, keys
from serving.store.keys import AppKey
from serving.store.records import decode, encode
from tests.integration.gateway.raw_replica import raw_replica, whole
from tests.integration.gateway.speaker import Speaker
from tests.integration.http_proxy.conftest import OTHER_MODEL, StartProxy
from tests.support.certificates import Authority
from tests.support.llm_serving import (
    MODEL,
    CacheProcess,
    HttpProxyProcess,
    LlmProcess,
    cache_config,
    http_proxy_config,
    llm_config,
)
from tests.support.stored import stored_keys
from tests.support.waiting import aeventually, eventually, eventually_async

QUESTION: Any = [{"role": "user", "content": "What is the capital of Japan?"}]
CHAT = "/v1/chat/completions"


def client_of(proxy: HttpProxyProcess, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{proxy.url}/v1", **{"api_key": "none", "max_retries": 0, "timeout": 60, **options})


def registered(etcd: EtcdCluster, proxy: HttpProxyProcess) -> pb.Endpoint | None:
    """Its record in discovery."""
    app = AppKey("default", proxy.config.application)
    found = stored_keys(etcd.config(), keys.endpoint(app, "proxy", "http", proxy.config.id))
    return decode(pb.Endpoint, next(iter(found.values()))) if found else None


def test_openais_client_and_discovery(proxy: HttpProxyProcess, etcd: EtcdCluster) -> None:
    record = registered(etcd, proxy)
    assert record is not None
    assert (record.role, record.protocol, record.address) == ("proxy", "openai-http", proxy.report.address)
    assert (record.pid, record.state, list(record.models)) == (proxy.pid, "ready", [])
    client = client_of(proxy)
    options: Any = {"model": MODEL, "messages": QUESTION, "temperature": 0}
    answer = client.chat.completions.create(**options)
    assert "Tokyo" in (answer.choices[0].message.content or "")
    chunks = client.chat.completions.create(**options, stream=True)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert streamed == answer.choices[0].message.content
    assert "mesh_gateway_requests_total" in httpx.get(f"http://{record.metrics_address}/metrics").text
    assert httpx.get(f"{proxy.url}/health").json() == {"status": "ready", "discovery_stale": False}
    assert CHAT in httpx.get(f"{proxy.url}/openapi.json").json()["paths"]


def test_other_applications_are_unknown(proxy: HttpProxyProcess, replicas: tuple[LlmProcess, LlmProcess]) -> None:
    client = client_of(proxy)
    assert [model.id for model in client.models.list()] == [MODEL]
    for name in (OTHER_MODEL, f"other/{OTHER_MODEL}", f"default/other/{OTHER_MODEL}"):
        with pytest.raises(openai.NotFoundError, match=rf"`{name}` does not exist.* \(there are: {MODEL}\)"):
            client.chat.completions.create(model=name, messages=QUESTION)
    for name in (f"chat/{MODEL}", f"default/chat/{MODEL}"):
        assert client.chat.completions.create(model=name, messages=QUESTION, temperature=0).model == MODEL
    direct = openai.OpenAI(base_url=f"{replicas[1].url}/v1", api_key="none", max_retries=0)
    assert direct.chat.completions.create(model=OTHER_MODEL, messages=QUESTION).choices  # it is there


def test_kserve_over_http_is_there(proxy: HttpProxyProcess) -> None:
    """Its requests: tests/integration/gateway/test_gateway_kserve.py."""
    assert httpx.get(f"{proxy.url}/v2").json()["name"] == "mesh-proxy"
    assert httpx.get(f"{proxy.url}/v2/health/ready").status_code == 200
    unknown = httpx.post(f"{proxy.url}/v2/models/{MODEL}/infer", json={})
    assert (unknown.status_code, "language models at /v1" in unknown.json()["error"]) == (404, True)


async def test_its_load_is_reported(etcd: EtcdCluster) -> None:
    """What its master goes by: what runs, what is held while no replica takes it, and how requests have ended."""
    config = http_proxy_config(name="http-r1-here", etcd=etcd.config(), application="held", hold_s=2)
    replica = HttpProxyReplica(config, on_drained=lambda: None)

    def report() -> pb.ReplicaReport:
        return decode(pb.ReplicaReport, replica.report().encode())

    async with (
        raw_replica(
            etcd.config(), "raw-r1-0", whole("404 Not Found"), model="gone", application="held", state="draining"
        ),
        raw_replica(etcd.config(), "raw-r1-1", whole("404 Not Found"), model="there", application="held"),
    ):
        replica.start()  # only now: when it is ready it knows of both
        try:
            await eventually_async(lambda: report().state == "ready", what="readiness")
            async with httpx.AsyncClient(base_url=f"http://{report().address}", timeout=60) as client:
                held = asyncio.create_task(client.post(CHAT, json={"model": "gone"}))
                await eventually_async(lambda: report().load.waiting == 1, what="the request is held")
                assert report().in_flight == 1
                assert (await client.post(CHAT, json={"model": "there"})).status_code == 404
                assert (await held).status_code == 503
            await eventually_async(lambda: report().load.requests == 2, what="both have ended")
            load = report().load
            assert (load.failed, load.waiting, report().in_flight) == (1, 0, 0)
        finally:
            await asyncio.to_thread(replica.stop)


async def test_it_leaves_without_a_loss(start_proxy: StartProxy, etcd: EtcdCluster) -> None:
    """Out of discovery first, then new requests are refused, and what runs goes on."""
    speaker = Speaker()
    speaker.hold.clear()
    async with raw_replica(etcd.config(), "raw-r1-0", speaker, model="raw", application="leaving"):
        proxy = await asyncio.to_thread(start_proxy, application="leaving")
        async with openai.AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
            running = await client.chat.completions.create(model="raw", messages=QUESTION, stream=True)
            words = [await anext(running), await anext(running)]
            proxy.terminate()
            async with httpx.AsyncClient(base_url=proxy.url, timeout=30) as other:

                async def drains() -> bool:
                    return bool((await other.get("/health")).json()["status"] == "draining")

                await aeventually(drains, what="it drains")

                async def refuses() -> httpx.Response | None:
                    answer = await other.post(CHAT, json={"model": "unknown", "messages": QUESTION})
                    return answer if answer.status_code == 503 else None

                refused = await aeventually(refuses, what="it takes no requests")
                assert refused is not None
                assert await asyncio.to_thread(registered, etcd, proxy) is None
                assert "draining" in refused.json()["error"]["message"]
                assert (refused.headers["connection"], int(refused.headers["retry-after"]) > 0) == ("close", True)
            assert proxy.report.state == "draining"
            speaker.hold.set()
            words += [chunk async for chunk in running]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in words)
        assert text == "Answer 1 from here."
        await asyncio.to_thread(proxy.wait_state, "drained")
        assert await asyncio.to_thread(proxy.process.wait, 20) == 0


async def test_what_its_drain_limit_cuts_off_is_told(start_proxy: StartProxy, etcd: EtcdCluster) -> None:
    speaker = Speaker()
    speaker.hold.clear()
    async with raw_replica(etcd.config(), "raw-r1-0", speaker, model="raw", application="cut"):
        proxy = await asyncio.to_thread(start_proxy, application="cut", drain_timeout_s=1)
        async with httpx.AsyncClient(base_url=proxy.url, timeout=60) as client:
            body = {"model": "raw", "messages": QUESTION, "stream": True}
            async with client.stream("POST", CHAT, json=body) as answer:
                lines = answer.aiter_lines()
                await anext(lines)
                proxy.terminate()
                events = [line.removeprefix("data: ") async for line in lines if line]
        error = json.loads(events[-1])["error"]
        assert (error["code"], "drain timeout" in error["message"]) == ("unavailable", True)
        assert await asyncio.to_thread(proxy.process.wait, 20) == 0
        speaker.hold.set()


def test_it_is_ready_when_it_knows_what_etcd_holds(
    start_proxy: StartProxy, etcd: EtcdCluster, replicas: tuple[LlmProcess, LlmProcess]
) -> None:
    """A store that does not answer, before; and one that does not, after."""
    assert replicas[0].report.registered
    (member,) = etcd.members
    member.pause()
    try:
        proxy = start_proxy(wait=False)
        proxy.wait_state("loading")
        eventually(lambda: "the models are not known yet" in proxy.log(), timeout_s=60, what="it has waited")
        assert (proxy.report.state, proxy.report.address) == ("loading", "")
    finally:
        member.resume()
    proxy.wait_state("ready", registered=True)
    client = client_of(proxy)
    client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0)  # at once

    etcd.kill()
    try:
        for _ in range(10):
            client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0)
        eventually(
            lambda: httpx.get(f"{proxy.url}/health").json() == {"status": "ready", "discovery_stale": True},
            timeout_s=60,
            what="it says so",
        )
    finally:
        etcd.start()
    for one in (proxy, *replicas):
        one.wait_state("ready", registered=True)


def test_the_semantic_cache_stands_before_it(
    start_proxy: StartProxy, etcd: EtcdCluster, folder: Path, replicas: tuple[LlmProcess, LlmProcess]
) -> None:
    replicas[1].wait_state("ready", registered=True)
    cache = CacheProcess(folder, cache_config(folder, etcd=etcd.config(), application="other"))
    try:
        proxy = start_proxy(application="other")
        cache.wait_state("ready", registered=True)
        client = client_of(proxy)

        def kept() -> str | None:
            options: Any = {"model": OTHER_MODEL, "messages": QUESTION, "temperature": 0}
            answer = client.chat.completions.with_raw_response.create(**options)
            assert "Tokyo" in (answer.parse().choices[0].message.content or "")
            return answer.headers.get("x-mesh-cache")

        eventually(lambda: kept() == "exact", timeout_s=60, what="an answer from the cache")
        assert httpx.delete(f"{proxy.url}/v1/cache", params={"model": OTHER_MODEL}).json() == {"removed": 1}
        eventually(lambda: kept() == "miss", timeout_s=60, what="it is gone")  # a cache that is slow is not waited for
    finally:
        cache.end()


def test_keys_where_the_mesh_asks_for_them(
    start_proxy: StartProxy, etcd: EtcdCluster, replicas: tuple[LlmProcess, LlmProcess]
) -> None:
    replicas[0].wait_state("ready", registered=True)
    made = new_key()
    record = pb.ApiKey(id=made.id, tenant="anna", secret_sha256=secret_hash(made.secret), version=1)

    async def store() -> None:
        client = EtcdClient(etcd.config())
        await client.put(keys.api_key(record.id), encode(record))
        await client.close()

    asyncio.run(store())
    proxy = start_proxy(require_keys=True)
    with pytest.raises(openai.AuthenticationError, match="no API key of this mesh"):
        client_of(proxy).chat.completions.create(model=MODEL, messages=QUESTION)
    for path in ("/v2", "/v2/models/any", "/v2/repository/index", "/v1/models", "/v1/cache"):
        assert httpx.get(f"{proxy.url}{path}").status_code == 401, path
    assert httpx.get(f"{proxy.url}/v2/health/ready").status_code == 200
    client = client_of(proxy, api_key=made.text())
    assert client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=1).choices
    assert httpx.get(f"{proxy.url}/health").status_code == 200
    assert 'mesh_gateway_tenant_requests_total{tenant="anna"} 1.0' in httpx.get(f"{proxy.url}/metrics").text


def test_tls_on_both_sides(etcd: EtcdCluster, folder: Path, tmp_path: Path) -> None:
    """It shows replicas what it shows clients, and each side checks the other."""
    tls = Authority.make(tmp_path / "authority").issue("replica")
    replica = _with_tls(
        LlmProcess, folder, llm_config(folder, name="tls-r1-0", etcd=etcd.config(), application="tls"), tls
    )
    proxy = _with_tls(
        HttpProxyProcess, folder, http_proxy_config(name="tls-http", etcd=etcd.config(), application="tls"), tls
    )
    try:
        for one in (replica, proxy):
            one.wait_state("ready", registered=True)
        context = ssl.create_default_context(cafile=tls.ca_file)
        context.load_cert_chain(tls.cert_file, tls.key_file)
        with httpx.Client(verify=context, timeout=60) as http:
            address = f"https://{proxy.report.address}"
            client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, http_client=http)
            eventually(lambda: list(client.models.list()), timeout_s=30, what="the model")
            answer = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0)
            assert "Tokyo" in (answer.choices[0].message.content or "")
        record = registered(etcd, proxy)
        assert record is not None
        assert record.tls
    finally:
        proxy.end()
        replica.end()


def _with_tls(kind: Any, folder: Path, config: pb.ReplicaConfig, tls: TlsConfig) -> Any:
    config.serving_tls.CopyFrom(pb.TlsFiles(ca=tls.ca_file, cert=tls.cert_file, key=tls.key_file))
    return kind(folder, config)
