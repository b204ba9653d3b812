"""Queued requests at a real gateway: submitted, looked at, fetched, followed and cancelled over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton

from serving import AsyncMeshClient, Connection
from tests.integration.queued_http.conftest import APP, COUNTS, NOBODY, World
from tests.support.broker_serving import WORKER, told
from tests.support.llm_serving import MODEL, EmbeddingProcess, embedding_config
from tests.support.waiting import aeventually

pytestmark = pytest.mark.timeout(900)
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "What is the capital of Japan?"}], "temperature": 0}
INFER = f"/v1/async/v2/models/{APP}/{WORKER}/infer"


def tensors(number: int, do: str = "") -> dict[str, Any]:
    return {"parameters": {"do": do}, "inputs": [{"name": "n", "datatype": "INT64", "shape": [1], "data": [number]}]}


async def submitted(http: httpx.AsyncClient, path: str, body: Any, **headers: str) -> dict[str, Any]:
    answer = await http.post(path, json=body, headers={name.replace("_", "-"): text for name, text in headers.items()})
    assert answer.status_code == 202, answer.text
    told_: dict[str, Any] = answer.json()
    assert answer.headers["location"] == told_["links"]["self"] == f"/v1/async/{told_['id']}"
    return told_


async def known(http: httpx.AsyncClient, path: str, body: Any) -> None:
    """Waits until the gateway knows model and broker: then it says what is missing in the body."""

    async def there() -> bool:
        return bool((await http.post(path, json=body)).json()["error"]["code"] == "missing_required_parameter")

    await aeventually(there, timeout_s=30, what="the gateway knows the broker")


async def ended(http: httpx.AsyncClient, request: dict[str, Any]) -> dict[str, Any]:
    while True:
        answer = await http.get(request["links"]["self"], params={"wait": 20})
        assert answer.status_code == 200, answer.text
        if answer.json()["status"] not in ("queued", "running"):
            return dict(answer.json())


async def wait_status(http: httpx.AsyncClient, request: dict[str, Any], status: str) -> None:
    async def there() -> bool:
        return bool((await http.get(request["links"]["self"])).json()["status"] == status)

    await aeventually(there, timeout_s=60, what=f"it is {status}")


@dataclass
class Event:
    name: str
    id: str
    data: dict[str, Any]


async def events(http: httpx.AsyncClient, path: str, last: str = "") -> AsyncIterator[Event]:
    headers = {"last-event-id": last} if last else {}
    async with http.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        async for line in answer.aiter_lines():
            if not line and fields:
                yield Event(fields.get("event", ""), fields.get("id", ""), json.loads(fields["data"]))
                fields = {}
            elif line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                fields[name] = value


async def test_a_chat_waits_and_is_fetched(http: httpx.AsyncClient) -> None:
    request = await submitted(
        http, "/v1/async/chat/completions", CHAT, x_mesh_priority="high", x_mesh_labels="kind=test, who=me"
    )
    assert request["object"] == "async.request"
    assert (request["status"], request["repeated"], request["model"]) == ("queued", False, MODEL)
    assert (request["priority"], request["labels"]) == ("high", {"kind": "test", "who": "me"})
    done = await ended(http, request)
    assert (done["status"], done["error"], done["attempts"]) == ("succeeded", None, 1)
    assert done["created_at"] <= done["started_at"] <= done["ended_at"]
    assert {name: done[name] for name in ("id", "model", "priority", "labels", "links")} == {
        name: request[name] for name in ("id", "model", "priority", "labels", "links")
    }
    result = await http.get(request["links"]["result"])
    assert result.status_code == 200
    assert "Tokyo" in result.json()["choices"][0]["message"]["content"]
    direct = await http.post("/v1/chat/completions", json=CHAT)
    assert direct.json()["choices"] == result.json()["choices"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/async/completions", {"model": f"{APP}/{MODEL}", "prompt": "the", "max_tokens": 3}),
        ("/v1/async/responses", {"model": f"default/{APP}/{MODEL}", "input": "hi", "max_output_tokens": 3}),
    ],
)
async def test_other_paths_and_names(http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    request = await submitted(http, path, body)
    result = await http.get(request["links"]["result"], params={"wait": 60})
    assert result.status_code == 200, result.text
    assert result.json()["model"] == MODEL


async def test_vectors_over_both_protocols(world: World, http: httpx.AsyncClient) -> None:
    world.broker("texts", before=["minilm"])
    world.start(EmbeddingProcess(world.folder, embedding_config(etcd=world.etcd.config(), application="texts")))
    path = "/v1/async/v2/models/minilm/infer"
    await known(http, path, {})
    text = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a cat"]}
    requests = [
        await submitted(http, "/v1/async/embeddings", {"model": "minilm", "input": "a cat"}),
        await submitted(http, path, {"inputs": [text]}),
    ]
    vectors, tensor = [
        (await http.get(one["links"]["result"], params={"wait": 60})).raise_for_status().json() for one in requests
    ]
    np.testing.assert_allclose(tensor["outputs"][0]["data"], vectors["data"][0]["embedding"], atol=1e-4)


async def test_tensors_in_both_forms(http: httpx.AsyncClient) -> None:
    request = await submitted(http, INFER.replace("/infer", f"/versions/{'1' * 80}/infer"), tensors(21))
    unknown = await ended(http, request)
    assert unknown["error"]["message"].endswith(f"version {'1' * 80} is not found")
    request = await submitted(http, INFER, tensors(21))
    result = await http.get(request["links"]["result"], params={"wait": 60})
    outputs = {one["name"]: one for one in result.json()["outputs"]}
    assert outputs["doubled"] == {"name": "doubled", "datatype": "INT64", "shape": [1], "data": [42]}
    tensor = triton.InferInput("n", [1], "INT64")
    tensor.set_data_from_numpy(np.array([4]), binary_data=True)
    body, length = triton.InferenceServerClient.generate_request_body([tensor])
    sent = await http.post(INFER, content=body, headers={"inference-header-content-length": str(length)})
    assert sent.status_code == 202, sent.text
    binary = await http.get(sent.json()["links"]["result"], params={"wait": 60, "binary": "true"})
    parsed = triton.InferenceServerClient.parse_response_body(
        binary.content, header_length=int(binary.headers["inference-header-content-length"])
    )
    assert parsed.as_numpy("doubled").tolist() == [8]


async def test_a_stream_is_followed_and_goes_on_where_it_was(http: httpx.AsyncClient) -> None:
    request = await submitted(http, "/v1/async/chat/completions", CHAT | {"stream": True})
    seen = [event async for event in events(http, request["links"]["events"])]
    assert [event.name for event in seen if event.name != "part"] == ["status", "end"]
    assert seen[-1].data["status"] == "succeeded"
    parts = [event for event in seen if event.name == "part"]
    text = "".join(event.data["choices"][0]["delta"].get("content") or "" for event in parts)
    assert "Tokyo" in text
    assert len({event.id for event in parts}) == len(parts) > 2
    for index, event in enumerate(parts):
        rest = [one async for one in events(http, request["links"]["events"], event.id)]
        assert [one.data for one in rest if one.name == "part"] == [one.data for one in parts[index + 1 :]], event.id
        assert "attempt" not in [one.name for one in rest]
    whole = await http.get(request["links"]["result"])
    assert whole.headers["content-type"].startswith("text/event-stream")
    assert whole.text.count("data: ") == len(parts) + 1  # [DONE]


async def test_a_replica_that_dies_is_told_to_those_who_follow(world: World, http: httpx.AsyncClient) -> None:
    world.broker(COUNTS)
    first = world.worker(COUNTS, "Counts")
    path = f"/v1/async/v2/models/{COUNTS}/{WORKER}/infer"
    await known(http, path, {})
    request = await submitted(http, path, tensors(4, "wait"))
    following = events(http, request["links"]["events"])
    seen: list[Event] = []
    async for event in following:
        seen.append(event)
        if len(seen) == 4:
            break  # three parts, of which the client goes away with the third
    assert [event.name for event in seen] == ["status", "part", "part", "part"]
    assert [event.data["outputs"][0]["data"] for event in seen[1:]] == [[0], [1], [2]]
    again = events(http, request["links"]["events"], seen[2].id)
    assert [(await anext(again)).name for _ in range(2)] == ["status", "part"]
    first.kill()
    world.worker(COUNTS, "Counts", name="worker-r1-1")
    world.go(COUNTS)
    rest = [event async for event in again]
    assert [event.name for event in rest] == ["attempt", "part", "part", "part", "part", "end"]
    assert [event.data["outputs"][0]["data"] for event in rest[1:-1]] == [[0], [1], [2], [3]]
    whole = await http.get(request["links"]["result"])
    assert len(whole.json()["data"]) == 4
    late = [event.name async for event in events(http, request["links"]["events"], seen[1].id)]
    assert late == ["status", "attempt", "part", "part", "part", "part", "end"]


@pytest.mark.parametrize("way", ["delete", "post"])
async def test_what_runs_is_cancelled(world: World, http: httpx.AsyncClient, way: str) -> None:
    number = {"delete": 501, "post": 502}[way]
    request = await submitted(http, INFER, tensors(number, "wait"))
    await wait_status(http, request, "running")
    unfinished = await http.get(request["links"]["result"])
    assert (unfinished.status_code, unfinished.json()["status"]) == (202, "running")
    links = request["links"]
    answer = await (http.delete(links["self"]) if way == "delete" else http.post(links["cancel"]))
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    result = await http.get(links["result"])
    assert (result.status_code, result.json()["error"]["code"]) == (409, "cancelled")
    assert [event.name async for event in events(http, links["events"])] == ["status", "end"]
    folder = world.folder / APP

    async def stopped() -> bool:
        return f"stopped {number}" in told(folder)

    await aeventually(stopped, timeout_s=60, what="the replica has stopped")


async def test_equal_keys_are_one_request(http: httpx.AsyncClient) -> None:
    first = await submitted(http, INFER, tensors(7), idempotency_key="seven")
    again = await submitted(http, INFER, tensors(7), idempotency_key="seven")
    assert (first["repeated"], again["repeated"]) == (False, True)
    assert again["id"] == first["id"]
    assert again["labels"] == {}


async def test_errors_of_replicas_are_theirs(http: httpx.AsyncClient) -> None:
    request = await submitted(http, INFER, tensors(8, "refuse"))
    done = await ended(http, request)
    assert done["status"] == "failed"
    assert done["error"]["message"] == "not this one"
    result = await http.get(request["links"]["result"])
    assert (result.status_code, result.json()["error"]) == (400, done["error"])
    context = CHAT | {"max_tokens": 100_000}
    request = await submitted(http, "/v1/async/chat/completions", context)
    direct = await http.post("/v1/chat/completions", json=context)
    result = await http.get(request["links"]["result"], params={"wait": 60})
    assert (result.status_code, result.json()) == (direct.status_code, direct.json())
    assert (await ended(http, request))["error"] == direct.json()["error"]


async def test_what_expires_has_no_result(world: World, http: httpx.AsyncClient) -> None:
    """Of a deployment without a replica, which the broker names."""
    world.broker(NOBODY)
    body = CHAT | {"model": f"{NOBODY}/chat"}
    await known(http, "/v1/async/chat/completions", {"model": body["model"]})
    request = await submitted(http, "/v1/async/chat/completions", body, x_mesh_deadline_s="0.3")
    assert (request["deadline_at"] is not None, request["model"]) == (True, "chat")
    assert (await ended(http, request))["status"] == "expired"
    result = await http.get(request["links"]["result"])
    assert (result.status_code, result.json()["error"]["code"]) == (409, "expired")


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "word"),
    [
        ("/v1/async/chat/completions", {"model": "none"}, {}, 404, "model_not_found"),
        ("/v1/async/chat/completions", {"model": MODEL}, {}, 400, "missing_required_parameter"),
        ("/v1/async/chat/completions", {}, {}, 400, None),
        ("/v1/async/responses", {"model": MODEL, "input": "x", "background": True}, {}, 400, "unsupported_parameter"),
        ("/v1/async/chat/completions", CHAT, {"x-mesh-priority": "now"}, 400, "invalid_value"),
        ("/v1/async/chat/completions", CHAT, {"x-mesh-deadline-s": "-1"}, 400, "invalid_value"),
        ("/v1/async/chat/completions", CHAT, {"x-mesh-labels": "mesh-path=x"}, 400, "invalid_value"),
        ("/v1/async/chat/completions", CHAT, {"idempotency-key": "x" * 257}, 400, "invalid_value"),
        (INFER, {"inputs": [{"name": "n", "datatype": "INT64", "shape": [2], "data": [1]}]}, {}, 400, "invalid_value"),
        (INFER.replace(WORKER, "none"), tensors(1), {}, 404, "model_not_found"),
        (INFER.replace("/infer", "/generate"), tensors(1), {}, 404, "not_found"),
        ("/v1/async/images", {}, {}, 404, "request_not_found"),
    ],
)
async def test_bad_submissions(
    http: httpx.AsyncClient, path: str, body: Any, headers: dict[str, str], status: int, word: str | None
) -> None:
    answer = await http.post(path, json=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, word), answer.text


async def test_bad_questions(http: httpx.AsyncClient) -> None:
    request = await submitted(http, INFER, tensors(3))
    links = request["links"]
    for path, status in (
        (f"{links['self']}?wait=61", 400),
        (f"{links['self']}?wait=1&wait=2", 400),
        (f"{links['result']}?binary=yes", 400),
        (f"{links['self']}/nothing", 404),
        (links["self"][:-1] + ("A" if links["self"][-1] != "A" else "B"), 404),
        ("/v1/async/x", 404),
        (f"/v1/async/{request['id'].rpartition('.')[0]}", 404),
        (f"/v1/responses/resp_{request['id']}", 404),
        (links["cancel"], 405),
    ):
        answer = await http.get(path)
        assert answer.status_code == status, (path, answer.text)
        assert answer.json()["error"]["message"]
    assert (await http.get(links["events"], headers={"last-event-id": "7"})).status_code == 400
    elsewhere = await http.get(f"/v1/async/{request['id'].replace('default.', 'other.', 1)}")
    assert elsewhere.status_code == 503
    assert "retry-after" in elsewhere.headers


async def test_a_ticket_is_one_for_the_sdk_too(world: World, http: httpx.AsyncClient) -> None:
    async with AsyncMeshClient(Connection(world.etcd.config())) as client:
        request = await submitted(http, INFER, tensors(11))
        outputs = await client.ticket(request["ticket"]).result(timeout_s=60)
        assert outputs["doubled"].tolist() == [22]
        ticket = await client.submit(APP, WORKER, {"n": np.array([12])})
        name = str(ticket).replace("/", ".")
        seen = [event async for event in events(http, f"/v1/async/{name}/events")]
        assert [event.name for event in seen] == ["status", "part", "end"]
        assert seen[1].data["outputs"][0]["data"] == [24]
        assert seen[0].data["model"] == WORKER
