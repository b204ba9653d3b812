"""`background: true` of /v1/responses with OpenAI's own client."""

from __future__ import annotations

import signal
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response

from tests.integration.queued_http.conftest import NOBODY, World
from tests.support.llm_serving import MODEL
from tests.support.waiting import aeventually

pytestmark = pytest.mark.timeout(900)
ASKED: dict[str, Any] = {"model": MODEL, "input": "What is the capital of Japan?", "temperature": 0}
DYING = "dying-chat"  # what replicas of another application call the model
LONG: dict[str, Any] = {
    "model": MODEL,
    "input": "x",
    "max_output_tokens": 1500,
    "text": {
        "format": {
            "type": "json_schema",
            "name": "numbers",
            "schema": {"type": "array", "items": {"type": "integer"}, "minItems": 1000},
        }
    },
}


async def known(client: openai.AsyncOpenAI, model: str) -> None:
    """Waits until the gateway knows model and broker: then it says what is missing in the body."""

    async def there() -> bool:
        with pytest.raises(openai.APIStatusError) as error:
            await client.responses.create(model=model, background=True)
        return error.value.code == "missing_required_parameter"

    await aeventually(there, timeout_s=30, what="the gateway knows the broker")


async def ended(client: openai.AsyncOpenAI, name: str) -> Response:
    found: list[Response] = []

    async def there() -> bool:
        found[:] = [await client.responses.retrieve(name)]
        return found[0].status not in ("queued", "in_progress")

    await aeventually(there, timeout_s=100, what=f"{name} has ended")
    return found[0]


async def test_it_is_created_retrieved_and_equal(client: openai.AsyncOpenAI) -> None:
    created = await client.responses.create(**ASKED, background=True, metadata={"a": "b"}, instructions="Be short.")
    assert (created.status, created.background, created.output) == ("queued", True, [])
    assert (created.metadata, created.instructions) == ({"a": "b"}, "Be short.")
    done = await ended(client, created.id)
    assert (done.status, done.id, done.background, done.error) == ("completed", created.id, True, None)
    assert (done.metadata, done.model) == ({"a": "b"}, MODEL)
    direct = await client.responses.create(**ASKED, instructions="Be short.")
    assert done.output_text == direct.output_text != ""
    assert done.usage is not None
    assert direct.usage is not None
    assert done.usage.total_tokens == direct.usage.total_tokens
    assert not direct.background


async def test_one_that_is_cut_is_incomplete(client: openai.AsyncOpenAI) -> None:
    created = await client.responses.create(**ASKED, background=True, max_output_tokens=1)
    done = await ended(client, created.id)
    assert done.status == "incomplete"
    assert done.incomplete_details is not None
    assert done.incomplete_details.reason == "max_output_tokens"


async def test_its_events_at_once_and_again_from_any_of_them(client: openai.AsyncOpenAI) -> None:
    stream = await client.responses.create(**ASKED, background=True, stream=True)
    seen = [event async for event in stream]
    kinds = [event.type for event in seen]
    assert kinds[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert kinds.count("response.created") == 1
    numbers = [event.sequence_number for event in seen]
    assert numbers == list(range(len(seen)))
    created: Any = seen[0]
    last: Any = seen[-1]
    assert created.response.id == last.response.id
    assert created.response.status == "queued"
    for after in (0, 1, 2, 5, len(seen) - 2, len(seen) - 1):
        again = await client.responses.retrieve(last.response.id, stream=True, starting_after=after)
        assert [event.model_dump() for event in [one async for one in again]][1 if after < 1 else 0 :] == [
            event.model_dump() for event in seen[after + 1 + (1 if after < 1 else 0) :]
        ]
    whole = await client.responses.retrieve(last.response.id, stream=True)
    assert [event.type async for event in whole] == kinds
    assert (await client.responses.retrieve(last.response.id)).output_text == last.response.output_text


async def test_it_is_cancelled_while_it_waits(world: World, client: openai.AsyncOpenAI) -> None:
    world.broker(NOBODY, name="queue-r1-1")
    asked = ASKED | {"model": f"{NOBODY}/chat"}

    await known(client, asked["model"])
    created = await client.responses.create(**asked, background=True)
    assert (await client.responses.retrieve(created.id)).status == "queued"
    for _ in range(2):
        assert (await client.responses.cancel(created.id)).status == "cancelled"
    assert (await client.responses.retrieve(created.id)).status == "cancelled"
    stream = await client.responses.retrieve(created.id, stream=True)
    assert [event.type async for event in stream] == ["response.created", "response.queued", "response.cancelled"]


async def test_it_is_cancelled_while_it_runs(world: World, client: openai.AsyncOpenAI) -> None:
    world.llm.process.send_signal(signal.SIGSTOP)  # it has asked for work, and cannot end it
    try:
        created = await client.responses.create(**ASKED, background=True)

        async def runs() -> bool:
            return (await client.responses.retrieve(created.id)).status == "in_progress"

        await aeventually(runs, timeout_s=60, what="it runs")
        assert (await client.responses.cancel(created.id)).status == "cancelled"
        assert (await client.responses.cancel(created.id)).status == "cancelled"
    finally:
        world.llm.process.send_signal(signal.SIGCONT)
    assert (await client.responses.retrieve(created.id)).status == "cancelled"


async def test_one_that_has_ended_cannot_be_cancelled(client: openai.AsyncOpenAI) -> None:
    created = await client.responses.create(**ASKED, background=True)
    await ended(client, created.id)
    assert (await client.responses.cancel(created.id)).status == "completed"


async def test_one_that_fails_says_why(client: openai.AsyncOpenAI) -> None:
    created = await client.responses.create(**ASKED, background=True, max_output_tokens=100_000)
    done = await ended(client, created.id)
    assert done.status == "failed"
    assert done.error is not None
    assert "context is" in done.error.message
    stream = await client.responses.retrieve(created.id, stream=True)
    assert [event.type async for event in stream] == ["response.created", "response.queued", "response.failed"]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"store": False}, "store"),
        ({"input": 7}, "input"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"model": "none"}, "model"),
    ],
)
async def test_what_is_refused_at_once(client: openai.AsyncOpenAI, changes: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.APIStatusError) as error:
        await client.responses.create(**(ASKED | {"background": True} | changes))
    assert error.value.status_code in (400, 404)
    assert error.value.param == param


async def test_wrong_questions(client: openai.AsyncOpenAI, http: httpx.AsyncClient) -> None:
    created = await client.responses.create(**ASKED, background=True)
    path = f"/v1/responses/{created.id}"
    for wrong, status in (
        (f"{path}?starting_after=1", 400),
        (f"{path}?stream=true&starting_after=-1", 400),
        (f"{path}?include=x", 400),
        (f"{path}/input_items", 404),
        (path[:-1], 404),
        ("/v1/responses/resp_1", 404),
    ):
        answer = await http.get(wrong)
        assert (answer.status_code, "message" in answer.json()["error"]) == (status, True), wrong
    assert (await http.delete(path)).status_code == 405


async def test_another_attempt_is_told_to_who_follows_and_who_comes_back(
    world: World, client: openai.AsyncOpenAI
) -> None:
    """The replica dies: its endpoint goes, and another one begins anew."""
    application = "dies"
    world.broker(application, before=["chat"])
    first = world.chat(application, model=DYING)
    asked = LONG | {"model": DYING}
    await known(client, asked["model"])
    stream = await client.responses.create(**asked, background=True, stream=True)
    name, last = "", 0
    async for event in stream:
        name = name or event.response.id  # type: ignore[union-attr]
        last = event.sequence_number
        if event.type == "response.output_text.delta":
            break
    first.kill()
    world.chat(application, name="chat-r1-1", model=DYING)
    told: list[Any] = [event async for event in stream]
    assert (told[-1].type, told[-1].code) == ("error", "attempt_lost")
    again = await client.responses.retrieve(name, stream=True, starting_after=last)
    assert [event.type async for event in again] == ["error"]
    anew = [event async for event in await client.responses.retrieve(name, stream=True)]
    numbers = [event.sequence_number for event in anew]
    assert numbers[:2] == [0, 1]
    assert numbers[2:] == list(range(1_000_002, 1_000_000 + len(anew)))


async def test_brokers_and_gateways_that_die_lose_nothing(world: World) -> None:
    """The broker is killed between the request and the question for its answer, then the gateway."""
    application = "loses"
    broker = world.broker(application, before=["chat"])
    with world.another_gateway() as gateway:
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
            await known(client, f"{application}/chat")
            created = await client.responses.create(**(ASKED | {"model": f"{application}/chat"}), background=True)
        broker.kill()
        gateway.kill()
    world.broker(application, name="queue-r1-1", before=["chat"])
    world.chat(application, model="chat")  # as the deployment, whose name stood for it while it had no replica
    with world.another_gateway() as gateway:
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=3) as client:
            done = await ended(client, created.id)
            assert (done.status, done.model) == ("completed", "chat")
            assert "Tokyo" in done.output_text
