"""The `openai` package against a real server; what the model says is scripted."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from serving.errors import Unavailable
from serving.llm.engine import Capabilities, Guide
from serving.llm.limits import Limits
from tests.support.llm_server import LlmServer
from tests.support.scripted_engine import ScriptedEngine
from tests.support.waiting import eventually

HI: Any = [{"role": "user", "content": "hi"}]
OSLO = '{"city": "Oslo"}'
CALL = '<tool_call>\n{"name": "get_weather", "arguments": ' + OSLO + "}\n</tool_call>"
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def test_an_answer(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    answer = client.chat.completions.create(model="tiny", messages=HI, max_completion_tokens=100, temperature=0)
    assert answer.choices[0].message.content == "Hello there."
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.object == "chat.completion"
    assert answer.model == "tiny"
    assert answer.system_fingerprint == "fp_3"
    assert answer.id.startswith("chatcmpl-")
    prompt = engine.generations[0].request
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(prompt.prompt)
    assert answer.usage.completion_tokens == len("Hello there.")
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 7
    assert (prompt.sampling.max_tokens, prompt.sampling.temperature) == (100, 0.0)


def test_length_is_the_reason(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=HI, max_tokens=5)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("Hello", "length")


def test_without_a_limit_the_answer_has_the_rest_of_the_context(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    client.chat.completions.create(model="tiny", messages=HI)
    request = engine.generations[0].request
    assert request.sampling.max_tokens == 4096 - len(request.prompt)


def test_a_stream_begins_with_the_role_and_ends_with_the_usage(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    engine.say = lambda _: "Grüße 😀!"
    chunks = list(
        client.chat.completions.create(model="tiny", messages=HI, stream=True, stream_options={"include_usage": True})
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Grüße 😀!"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len("Grüße 😀!".encode())
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_several_choices_have_seeds_of_their_own(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    engine.say = lambda request: f"I am {request.sampling.seed}"
    answer = client.chat.completions.create(model="tiny", messages=HI, n=3, seed=10)
    assert [choice.message.content for choice in answer.choices] == ["I am 10", "I am 11", "I am 12"]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    texts = ["", "", ""]
    order = []
    for chunk in client.chat.completions.create(model="tiny", messages=HI, n=3, seed=20, stream=True):
        choice = chunk.choices[0]
        texts[choice.index] += choice.delta.content or ""
        order.append(choice.index)
    assert texts == ["I am 20", "I am 21", "I am 22"]
    assert order != sorted(order), "the choices came one after the other"


def test_stop_texts(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    engine.say = lambda _: "one two three four five"
    for stop in ("three", ["never", " three"]):
        answer = client.chat.completions.create(model="tiny", messages=HI, stop=stop)  # type: ignore[call-overload]
        assert answer.choices[0].message.content.strip() == "one two"
        assert answer.choices[0].finish_reason == "stop"
    assert all(item.cancelled_at for item in engine.generations), "what follows was computed all the same"


def test_log_probabilities(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=HI, logprobs=True, top_logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(token.token for token in logprobs.content) == "Hello there."
    assert [top.logprob for top in logprobs.content[0].top_logprobs] == [-0.5, -1.5]
    text = client.completions.create(model="tiny", prompt="x", logprobs=2).choices[0]
    assert text.logprobs is not None
    assert text.logprobs.text_offset == list(range(12))


def test_tools(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    engine.say = lambda _: f"Let me see.\n{CALL}"
    answer = client.chat.completions.create(model="tiny", messages=HI, tools=[WEATHER])
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    call = choice.message.tool_calls[0]
    assert (call.type, call.function.name, call.function.arguments) == ("function", "get_weather", OSLO)
    assert '"get_weather"' in engine.prompts[0]
    told: Any = [*HI, choice.message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    engine.say = lambda _: "It is sunny in Oslo."
    assert client.chat.completions.create(model="tiny", messages=told, tools=[WEATHER]).choices[0].message.content
    assert '"arguments": {"city": "Oslo"}' in engine.prompts[1]


def test_streamed_tools_tell_the_name_first(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    engine.say = lambda _: f"{CALL}\n{CALL}"
    chunks = client.chat.completions.create(model="tiny", messages=HI, tools=[WEATHER], stream=True)
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    for index in (0, 1):
        mine = [call for call in deltas if call.index == index]
        assert mine[0].function is not None
        assert mine[0].function.name == "get_weather"
        assert mine[0].id is not None
        assert all(call.id is None and call.function and call.function.name is None for call in mine[1:])
        assert "".join(call.function.arguments or "" for call in mine if call.function) == OSLO
        assert len(mine) > 5, "the arguments came at once"
    with client.chat.completions.stream(model="tiny", messages=HI, tools=[WEATHER]) as stream:
        final = stream.get_final_completion().choices[0]
    assert final.finish_reason == "tool_calls"
    assert len(final.message.tool_calls or ()) == 2


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_call_that_must_be_made_is_guided(client: openai.OpenAI, engine: ScriptedEngine, choice: Any) -> None:
    engine.say = lambda _: '{"name": "get_weather", "arguments": ' + OSLO + "}"
    answer = client.chat.completions.create(model="tiny", messages=HI, tools=[WEATHER], tool_choice=choice)
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.tool_calls
    assert answer.choices[0].message.tool_calls[0].function.arguments == OSLO
    request = engine.generations[0].request
    assert request.sampling.guide is not None
    assert json.loads(request.sampling.guide.text)["properties"]["name"] == {"const": "get_weather"}
    assert engine.prompts[0].endswith("<tool_call>")


def test_tools_that_may_not_be_called_are_not_shown(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    engine.say = lambda _: CALL
    answer = client.chat.completions.create(model="tiny", messages=HI, tools=[WEATHER], tool_choice="none")
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].message.content == CALL
    assert "tools" not in engine.prompts[0]


class Animal(BaseModel):
    name: str
    legs: int


class GetWeather(BaseModel):
    city: str


def test_parse_with_pydantic(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    engine.say = lambda _: '{"name": "spider", "legs": 8}'
    answer = client.chat.completions.parse(model="tiny", messages=HI, response_format=Animal)
    assert answer.choices[0].message.parsed == Animal(name="spider", legs=8)
    guide = engine.generations[0].request.sampling.guide
    assert guide is not None
    assert guide.kind == "json_schema"
    assert list(json.loads(guide.text)["properties"]) == ["name", "legs"]
    engine.say = lambda _: CALL.replace("get_weather", "GetWeather")
    tools = [openai.pydantic_function_tool(GetWeather)]
    message = client.chat.completions.parse(model="tiny", messages=HI, tools=tools).choices[0].message
    assert message.tool_calls
    assert message.tool_calls[0].function.parsed_arguments == GetWeather(city="Oslo")


def test_guides(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    client.chat.completions.create(model="tiny", messages=HI, response_format={"type": "json_object"})
    client.chat.completions.create(model="tiny", messages=HI, response_format={"type": "text"})
    client.completions.create(model="tiny", prompt="x", extra_body={"guided_regex": "[a-z]+", "top_k": 5, "min_p": 0.5})
    assert [item.request.sampling.guide for item in engine.generations] == [
        Guide("json_object"),
        None,
        Guide("regex", "[a-z]+"),
    ]
    assert (engine.generations[2].request.sampling.top_k, engine.generations[2].request.sampling.min_p) == (5, 0.5)


def test_completions(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    engine.say = lambda request: f"<{bytes(request.prompt).decode()}>"
    answer = client.completions.create(model="tiny", prompt=["a", "b"], n=2, echo=True)
    assert [choice.text for choice in answer.choices] == ["a<a>", "a<a>", "b<b>", "b<b>"]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 12)
    assert client.completions.create(model="tiny", prompt=[97, 98]).choices[0].text == "<ab>"
    engine.say = lambda _: "x" * 50
    assert client.completions.create(model="tiny", prompt="a").choices[0].text == "x" * 16
    stream = client.completions.create(
        model="tiny", prompt="a", echo=True, max_tokens=3, stream=True, stream_options={"include_usage": True}
    )
    pieces = list(stream)
    assert "".join(piece.choices[0].text for piece in pieces if piece.choices) == "axxx"
    assert pieces[-2].choices[0].finish_reason == "length"
    assert pieces[-1].usage is not None


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "mesh"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("an/other")
    assert caught.value.code == "model_not_found"


async def test_many_at_once_from_the_asynchronous_client(server: LlmServer, engine: ScriptedEngine) -> None:
    engine.step_s = 0.001
    async with openai.AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:

        async def one(index: int) -> str:
            if index % 2:
                answer = await client.chat.completions.create(model="tiny", messages=HI)
                return answer.choices[0].message.content or ""
            stream = await client.chat.completions.create(model="tiny", messages=HI, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        assert await asyncio.gather(*(one(index) for index in range(40))) == ["Hello there."] * 40
    assert (server.admission.requests, server.admission.waiting_tokens) == (0, 0)


def failure(client: openai.OpenAI, **fields: Any) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(**{"model": "tiny", "messages": HI, **fields})
    return caught.value


def test_errors_say_what_and_where(client: openai.OpenAI, engine: ScriptedEngine, server: LlmServer) -> None:
    error = failure(client, model="other")
    assert (error.status_code, error.code, error.param) == (404, "model_not_found", "model")
    error = failure(client, temperature=3)
    assert (error.status_code, error.type, error.param) == (400, "invalid_request_error", "temperature")
    error = failure(client, max_tokens=5000)
    assert (error.code, error.param) == ("context_length_exceeded", "max_tokens")
    assert "4096" in error.message
    error = failure(client, messages=[{"role": "user", "content": "x" * 5000}])
    assert (error.code, error.param) == ("context_length_exceeded", "messages")
    schema: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no such type"}}}
    error = failure(client, response_format=schema)
    assert (error.status_code, error.param, error.code) == (400, "response_format", "invalid_schema")
    error = failure(client, response_format={"type": "json_object"}, tools=[WEATHER])
    assert (error.status_code, error.param) == (400, "response_format")
    assert failure(client, messages=[{"role": "user", "content": "refused by the template"}]).status_code == 400
    engine.say = lambda _: Unavailable("the engine ended")
    error = failure(client, stream=True)
    assert (error.status_code, error.response.headers["retry-after"]) == (503, "1")
    engine.fail_at, engine.failing_with = 0, RuntimeError("secret detail")
    engine.say = lambda _: "x"
    error = failure(client)
    assert error.status_code == 500
    assert "secret" not in error.message
    assert "logged as" in error.message
    server.draining = True
    error = failure(client)
    assert (error.status_code, error.response.headers["retry-after"]) == (503, "1")


def test_what_the_engine_cannot_do_is_refused() -> None:
    engine = ScriptedEngine(capabilities=Capabilities(engine="weak 1", context_tokens=100, logprobs=True))
    with (
        LlmServer(engine) as server,
        openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client,
    ):
        for fields, param in (
            ({"logprobs": True, "top_logprobs": 1}, "top_logprobs"),
            ({"logit_bias": {"5": 1}}, "logit_bias"),
            ({"response_format": {"type": "json_object"}}, "response_format"),
            ({"tools": [WEATHER], "tool_choice": "required"}, "tool_choice"),
            ({"extra_body": {"priority": 1}}, "priority"),
        ):
            error = failure(client, **fields)
            assert (error.status_code, error.param, error.code) == (400, param, "unsupported_parameter")
            assert "weak 1" in error.message
        assert client.chat.completions.create(model="tiny", messages=HI, logprobs=True, max_tokens=5)


def test_an_error_in_the_middle_of_a_stream_is_an_event(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    engine.fail_at = 5
    texts: list[str] = []
    stream = client.chat.completions.create(model="tiny", messages=HI, stream=True)
    with pytest.raises(openai.APIError, match="the engine ended"):
        texts.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert "".join(texts) == "Hello"


def test_a_full_replica_says_when_to_come_back(engine: ScriptedEngine) -> None:
    engine.step_s = 0.05
    with (
        LlmServer(engine, limits=Limits(max_requests=2)) as server,
        openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client,
    ):
        first = client.chat.completions.create(model="tiny", messages=HI, stream=True)
        next(iter(first))
        error = failure(client, n=2)
        assert (error.status_code, error.code) == (429, "rate_limit_exceeded")
        assert error.response.headers["retry-after"] == "1"
        assert "max_requests" in error.message
        assert client.chat.completions.create(model="tiny", messages=HI).choices
        first.close()


def test_headers_and_numbers(client: openai.OpenAI, server: LlmServer) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="tiny", messages=HI, extra_headers={"x-request-id": "mine-1"}, extra_body={"unknown_field": 1}
    )
    assert raw.headers["x-request-id"] == "mine-1"
    assert raw.headers["x-mesh-replica"] == "chat-0"
    assert raw.headers["x-mesh-ignored"] == "unknown_field"
    assert client.chat.completions.create(model="tiny", messages=HI)._request_id
    wanted = (
        'mesh_ingress_calls_total{code="OK",method="chat.completions"} 2.0',
        "mesh_llm_time_to_first_token_seconds_count 2.0",
        "mesh_llm_generated_tokens_total 24.0",
        "mesh_llm_cached_prompt_tokens_total 14.0",
        "mesh_ingress_in_flight 0.0",
    )

    def told() -> bool:
        metrics = client.get(f"{server.root}/metrics", cast_to=str)
        return all(line in metrics for line in wanted)

    eventually(told, timeout_s=60, what="numbers, which are counted when an answer has been sent")
