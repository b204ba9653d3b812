"""Whose queued requests are whose: API keys, their limits, full queues, and the HTTP proxy of an application."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest

from serving._proto import records_pb2 as pb
from serving.access.api_key import new_key, secret_hash
from serving.store import EtcdClient, keys
from serving.store.records import encode
from tests.integration.queued_http.conftest import APP, World
from tests.support.llm_serving import MODEL, GatewayProcess, HttpProxyProcess, http_proxy_config
from tests.support.receiver import Receiver
from tests.support.waiting import aeventually, eventually

pytestmark = pytest.mark.timeout(900)
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 40}
PATH = "/v1/async/chat/completions"
FULL = "full"


@dataclass(frozen=True)
class Keyed:
    """A gateway that asks for keys, and keys by name.

    `limited` may use 200 tokens in all, `leaves` 100, `other` one model.
    """

    gateway: GatewayProcess
    keys: dict[str, str]

    def headers(self, name: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.keys[name]}"}

    def client(self, name: str) -> httpx.Client:
        return httpx.Client(base_url=self.gateway.url, timeout=100, headers=self.headers(name))


@pytest.fixture(scope="module")
def keyed(world: World) -> Iterator[Keyed]:
    records = {
        "anna": pb.ApiKey(tenant="anna"),
        "ben": pb.ApiKey(tenant="ben"),
        "limited": pb.ApiKey(tenant="carl", limits=pb.KeyLimits(tokens_total=200)),
        "leaves": pb.ApiKey(tenant="emil", limits=pb.KeyLimits(tokens_total=100)),
        "other": pb.ApiKey(tenant="dora", models=["worker"]),
    }
    texts: dict[str, str] = {}

    async def store() -> None:
        client = EtcdClient(world.etcd.config())
        for name, record in records.items():
            made = new_key()
            record.id, record.secret_sha256, record.version = made.id, secret_hash(made.secret), 1
            texts[name] = made.text()
            await client.put(keys.api_key(record.id), encode(record))
        await client.close()

    asyncio.run(store())
    with world.another_gateway(require_keys=True) as gateway:
        made = Keyed(gateway, texts)
        for name in texts:
            with made.client(name) as client:
                eventually(
                    lambda client=client: client.get("/v1/models").status_code == 200, timeout_s=30, what="the key"
                )
        yield made


def test_a_key_is_needed(keyed: Keyed) -> None:
    for method, path in (("POST", PATH), ("GET", "/v1/async/a.b.c.1.d"), ("GET", "/v1/responses/resp_1")):
        assert httpx.request(method, f"{keyed.gateway.url}{path}", json={}).status_code == 401, path


def test_another_tenant_sees_nothing(keyed: Keyed) -> None:
    with keyed.client("anna") as anna, keyed.client("ben") as ben:
        sent = anna.post(PATH, json=CHAT).json()
        links = sent["links"]
        for method, path in (
            ("GET", links["self"]),
            ("GET", links["result"]),
            ("GET", links["events"]),
            ("DELETE", links["self"]),
            ("POST", links["cancel"]),
        ):
            answer = ben.request(method, path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "request_not_found"), path
        assert anna.get(links["result"], params={"wait": 60}).status_code == 200
        again = ben.post(PATH, json=CHAT, headers={"idempotency-key": "the-same"}).json()
        other = anna.post(PATH, json=CHAT, headers={"idempotency-key": "the-same"}).json()
        assert (again["repeated"], other["repeated"]) == (False, False)
        created = openai.OpenAI(base_url=f"{keyed.gateway.url}/v1", api_key=keyed.keys["anna"]).responses.create(
            model=MODEL, input="hi", max_output_tokens=3, background=True
        )
        stranger = openai.OpenAI(base_url=f"{keyed.gateway.url}/v1", api_key=keyed.keys["ben"], max_retries=0)
        for ask in (stranger.responses.retrieve, stranger.responses.cancel):
            with pytest.raises(openai.NotFoundError):
                ask(created.id)


def test_models_that_a_key_may_not_ask(keyed: Keyed) -> None:
    with keyed.client("other") as client:
        refused = client.post(PATH, json=CHAT)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed")
        body = {"inputs": [{"name": "n", "datatype": "INT64", "shape": [1], "data": [1]}]}
        taken = client.post(f"/v1/async/v2/models/{APP}/worker/infer", json=body)
        assert taken.status_code == 202, taken.text


def test_a_submission_is_charged_what_it_may_cost(keyed: Keyed) -> None:
    with keyed.client("limited") as client:
        first = client.post(PATH, json=CHAT, headers={"idempotency-key": "one"})
        assert first.status_code == 202, first.text
        for _ in range(5):
            again = client.post(PATH, json=CHAT, headers={"idempotency-key": "one"})
            assert again.json()["repeated"] is True, "what is repeated costs nothing"
        answers = [client.post(PATH, json=CHAT) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [202, 202, 429, 429], "each may need 40 tokens and more"
        assert answers[-1].json()["error"]["code"] == "insufficient_quota"
        assert client.get(first.json()["links"]["result"], params={"wait": 60}).status_code == 200, "asking is free"


def test_who_leaves_before_the_ticket_is_there_is_charged(world: World, keyed: Keyed) -> None:
    """The item may be kept all the same, and who asks for it again with its key pays nothing."""
    broker = world.broker("stands", before=["chat"])
    body = CHAT | {"model": "stands/chat"}
    with keyed.client("anna") as client:
        eventually(lambda: client.post(PATH, json=body).status_code == 202, timeout_s=30, what="the broker")

    def refused() -> bool:
        try:
            return client.post(PATH, json=body, timeout=1).status_code == 429
        except httpx.ReadTimeout:  # the limit has room
            return False

    with keyed.client("leaves") as client:
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            with pytest.raises(httpx.ReadTimeout):
                client.post(PATH, json=body, timeout=1)
            eventually(refused, timeout_s=30, what="a charge")
        finally:
            os.kill(broker.pid, signal.SIGCONT)


def test_a_full_queue_says_when_to_come_back(world: World, keyed: Keyed) -> None:
    world.broker(FULL, before=["chat"], max_items=1)
    body = CHAT | {"model": f"{FULL}/chat"}
    with keyed.client("anna") as client:
        eventually(lambda: client.post(PATH, json=body).status_code == 202, timeout_s=30, what="the broker")
        refused = client.post(PATH, json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert int(refused.headers["retry-after"]) >= 1


async def test_its_end_is_told(world: World, keyed: Keyed) -> None:
    allowed = pb.BrokerCallbacks(networks=["127.0.0.0/8"], allow_http=True)
    world.broker("calls", before=["chat"], callbacks=allowed)
    body = CHAT | {"model": "calls/chat"}
    async with (
        Receiver() as receiver,
        httpx.AsyncClient(base_url=keyed.gateway.url, headers=keyed.headers("anna"), timeout=100) as client,
    ):
        headers = {"x-mesh-callback-url": receiver.url("/done"), "x-mesh-callback-states": "expired, failed"}

        async def submit(**more: str) -> httpx.Response:
            said = {f"x-mesh-{name.replace('_', '-')}": value for name, value in more.items()}
            return await client.post(PATH, json=body, headers=headers | said)

        async def known() -> bool:
            return (await submit(deadline_s="0.2")).status_code == 202

        await aeventually(known, timeout_s=30, what="the gateway knows the broker")
        (told,) = await receiver.told()
        assert (told.path, told.data["state"], told.data["tenant"]) == ("/done", "EXPIRED", "anna")
        for more, status in (
            ({"callback_secret": "ben"}, 403),
            ({"callback_states": "ended"}, 400),
            ({"callback_url": ""}, 400),
            ({"callback_url": "http://10.0.0.1/x"}, 403),
            ({"callback_url": "file:///x"}, 400),
        ):
            answer = await submit(**more)
            assert (answer.status_code, "message" in answer.json()["error"]) == (status, True), (more, answer.text)


def test_a_deployment_without_a_broker(world: World, keyed: Keyed) -> None:
    world.worker("alone")
    with keyed.client("anna") as client:
        body = {"inputs": []}

        def answered() -> Any:
            answer = client.post("/v1/async/v2/models/alone/worker/infer", json=body)
            return answer if answer.status_code != 404 else None

        answer = eventually(answered, timeout_s=30, what="the model at the gateway")
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["code"] == "no_broker"
        assert "broker: {before: [worker]}" in error["message"]


def test_the_proxy_of_an_application(world: World) -> None:
    with ExitStack() as stack:
        config = http_proxy_config(etcd=world.etcd.config(), application=APP)
        proxy = HttpProxyProcess(world.folder, config)
        stack.callback(proxy.end)
        proxy.wait_state("ready", registered=True)
        client = stack.enter_context(httpx.Client(base_url=proxy.url, timeout=100))
        sent = client.post(PATH, json=CHAT)
        assert sent.status_code == 202, sent.text
        assert client.get(sent.json()["links"]["result"], params={"wait": 60}).status_code == 200
        elsewhere = sent.json()["links"]["self"].replace(f".{APP}.", ".full.")
        assert client.get(elsewhere).status_code == 404, "it serves one application"
        metrics = httpx.get(f"http://{proxy.report.address}/metrics").text
        assert f'path="{PATH}"' in metrics
        assert 'path="/v1/async/{id}/result"' in metrics
