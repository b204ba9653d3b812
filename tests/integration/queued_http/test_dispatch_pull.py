"""Deployments with `dispatch: pull` at a real gateway: unchanged clients, whose requests a broker keeps meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import tritonclient.http as triton

from serving._proto import records_pb2 as pb
from serving.store import keys
from serving.store.client import EtcdClient
from serving.store.records import encode
from tests.integration.queued_http.conftest import PULLED as APP
from tests.integration.queued_http.conftest import PULLED_MODEL, World
from tests.support.broker_serving import WORKER, go, told
from tests.support.waiting import aeventually, eventually_async

pytestmark = pytest.mark.timeout(900)
URL = f"/v2/models/{APP}/{WORKER}/infer"
CHAT = {"model": PULLED_MODEL, "messages": [{"role": "user", "content": "What is the capital of Japan?"}]}


def tensors(number: int, do: str = "") -> dict[str, Any]:
    return {"parameters": {"do": do}, "inputs": [{"name": "n", "datatype": "INT64", "shape": [1], "data": [number]}]}


def through_broker(world: World) -> float:
    return sum(line.startswith("mesh_gateway_pulled_total") and float(line.split()[-1]) for line in metrics(world))


def metrics(world: World) -> list[str]:
    return httpx.get(f"{world.gateway.url}/metrics").text.splitlines()


async def noted(world: World, *lines: str) -> None:
    await eventually_async(lambda: set(lines) <= set(told(world.folder / APP)), timeout_s=60, what=" and ".join(lines))


async def test_tensors_of_a_class_are_answered_as_clients_want_them(pulled: World, http: httpx.AsyncClient) -> None:
    before = through_broker(pulled)
    answer = await http.post(URL, json={"id": "a", **tensors(21)})
    assert answer.status_code == 200, answer.text
    outputs = {one["name"]: one for one in answer.json()["outputs"]}
    assert (answer.json()["id"], outputs["doubled"]["data"]) == ("a", [42])
    assert answer.headers["x-mesh-replica"].startswith("worker-r1-")
    assert through_broker(pulled) == before + 1
    wrong = await http.post(URL, json=tensors(1, "refuse"))
    assert (wrong.status_code, wrong.json()["error"]) == (400, "not this one")


@pytest.mark.parametrize("binary", [True, False])
async def test_tritonclient_is_answered(pulled: World, binary: bool) -> None:
    def ask() -> Any:
        with triton.InferenceServerClient(pulled.gateway.url.removeprefix("http://")) as client:
            given = triton.InferInput("n", [1], "INT64")
            given.set_data_from_numpy(np.array([4]), binary_data=binary)
            wanted = [triton.InferRequestedOutput("doubled", binary_data=binary)]
            return client.infer(f"{APP}/{WORKER}", [given], outputs=wanted).as_numpy("doubled")

    assert (await asyncio.to_thread(ask)).tolist() == [8]


async def test_a_chat_and_its_stream_are_as_if_they_were_pushed(pulled: World, client: openai.AsyncOpenAI) -> None:
    before = through_broker(pulled)
    whole = await client.chat.completions.create(**CHAT, temperature=0)  # type: ignore[call-overload]
    assert "Tokyo" in whole.choices[0].message.content
    chunks = [one async for one in await client.chat.completions.create(**CHAT, temperature=0, stream=True)]  # type: ignore[call-overload]
    assert len(chunks) > 2
    text = "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
    assert text == whole.choices[0].message.content
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        await client.chat.completions.create(**CHAT, max_tokens=-1)  # type: ignore[call-overload]
    assert through_broker(pulled) == before + 3


async def test_whoever_goes_away_takes_the_request_along(pulled: World, http: httpx.AsyncClient) -> None:
    asking = asyncio.create_task(http.post(URL, json=tensors(301, "wait")))
    await noted(pulled, "began 301")
    asking.cancel()
    await noted(pulled, "stopped 301")
    late = await http.post(URL, json=tensors(302, "wait"), headers={"x-request-timeout": "0.5"})
    assert late.status_code == 504
    await noted(pulled, "began 302", "stopped 302")


async def test_a_replica_that_dies_is_replaced_by_another(pulled: World, http: httpx.AsyncClient) -> None:
    first = pulled.running(APP, "worker-r1-")
    asking = asyncio.create_task(http.post(URL, json=tensors(401, "wait")))
    await noted(pulled, "began 401")
    first.kill()
    second = pulled.worker(APP, name=pulled.next_name("worker"))
    await eventually_async(
        lambda: told(pulled.folder / APP).count("began 401") == 2, timeout_s=60, what="a second attempt"
    )
    go(pulled.folder / APP)
    answer = await asking
    assert (answer.status_code, answer.headers["x-mesh-replica"]) == (200, second.config.id)


@pytest.mark.usefixtures("pulled")
async def test_what_a_broker_does_not_carry_is_refused(http: httpx.AsyncClient) -> None:
    sequence = await http.post(URL, json={**tensors(1), "parameters": {"sequence_id": 7}})
    assert sequence.status_code == 501
    assert "sequence" in sequence.json()["error"]
    generate = await http.post(URL.replace("/infer", "/generate"), json={"n": 1})
    assert generate.status_code == 501
    assert "dispatch: pull" in generate.json()["error"]


async def test_a_route_leads_to_what_only_a_broker_takes(pulled: World, http: httpx.AsyncClient) -> None:
    """Models of classes have no replica that speaks HTTP; the target does not exist."""
    store = EtcdClient(pulled.etcd.config())
    fallback = f"default/{APP}/{WORKER}"
    targets = [pb.RouteTarget(model=f"default/{APP}/none", weight=1)]
    route = pb.RouteRecord(name="anywhere", targets=targets, fallbacks=[fallback], version=1)
    await store.put(keys.route("anywhere"), encode(route))

    async def there() -> bool:
        answer = await http.post("/v2/models/anywhere/infer", json=tensors(1))
        assert answer.status_code == 200, answer.text
        return True

    await aeventually(there, what="the gateway knows the route")
    answer = await http.post("/v2/models/anywhere/infer", json=tensors(21))
    assert answer.status_code == 200, answer.text
    assert answer.headers.get_list("x-mesh-model") == [fallback]
    await store.delete(keys.route("anywhere"))
    await store.close()


@pytest.mark.usefixtures("pulled")
async def test_large_answers_are_whole(http: httpx.AsyncClient) -> None:
    data = list(range(40_000))
    asked = {"inputs": [{"name": "n", "datatype": "INT64", "shape": [len(data)], "data": data}]}
    answer = await http.post(URL, json=asked)
    outputs = {one["name"]: one for one in answer.json()["outputs"]}
    assert outputs["doubled"]["data"] == [2 * one for one in data]


async def test_a_full_queue_is_told_with_when_to_come_back(pulled: World, http: httpx.AsyncClient) -> None:
    asking = [asyncio.create_task(http.post(URL, json=tensors(500 + one, "wait"))) for one in range(20)]
    full = await http.post(URL, json=tensors(600, "wait"), headers={"x-request-timeout": "1"})
    while full.status_code == 504:  # there was room still
        full = await http.post(URL, json=tensors(600, "wait"), headers={"x-request-timeout": "1"})
    assert full.status_code == 429, full.text
    assert int(full.headers["retry-after"]) >= 1
    go(pulled.folder / APP)
    statuses = [(await one).status_code for one in asking]
    assert set(statuses) <= {200, 429}
    assert statuses.count(200) >= 18, "but for the places that the late ones had for a moment"


async def test_a_broker_that_dies_has_the_request_on_its_disk(pulled: World, http: httpx.AsyncClient) -> None:
    broker = pulled.running(APP, "queue-r1-")
    asking = asyncio.create_task(http.post(URL, json=tensors(701, "wait")))
    await noted(pulled, "began 701")
    broker.kill()
    pulled.pulling_broker()
    go(pulled.folder / APP)
    assert (await asking).status_code == 200
    assert told(pulled.folder / APP).count("ended 701") == 1
