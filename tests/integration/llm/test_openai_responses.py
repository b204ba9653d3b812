"""The Responses API by the `openai` package against a real server; what the model says is scripted."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.support.llm_server import LlmServer
from tests.support.scripted_engine import ScriptedEngine

OSLO = '{"city": "Oslo"}'
CALL = '<tool_call>\n{"name": "get_weather", "arguments": ' + OSLO + "}\n</tool_call>"
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": True,
}


def test_an_answer(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    answer = client.responses.create(model="tiny", input="hi", instructions="be kind", metadata={"a": "b"})
    assert answer.output_text == "Hello there."
    assert (answer.status, answer.object, answer.metadata) == ("completed", "response", {"a": "b"})
    assert answer.usage is not None
    assert answer.usage.output_tokens == 12
    assert answer.usage.input_tokens_details.cached_tokens == 7
    assert answer.usage.total_tokens == answer.usage.input_tokens + 12
    assert engine.prompts[0].startswith('{"role": "system", "content": "be kind"}\n{"role": "user", "content": "hi"}')


def test_an_answer_that_was_cut_is_incomplete(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="tiny", input="hi", max_output_tokens=5)
    assert (answer.output_text, answer.status) == ("Hello", "incomplete")
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.output[0].status == "incomplete"


def test_events_add_up_to_the_answer(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    engine.say = lambda _: f"Let me see. {CALL}\n{CALL}"
    events = list(client.responses.create(model="tiny", input="hi", tools=[WEATHER], stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-1] == "response.completed"
    final = events[-1].response  # type: ignore[union-attr]
    assert [item.type for item in final.output] == ["message", "function_call", "function_call"]
    for index, item in enumerate(final.output):
        mine = [event for event in events if getattr(event, "output_index", None) == index]
        assert mine[0].item.id == item.id  # type: ignore[union-attr]
        assert mine[0].item.status == "in_progress"  # type: ignore[union-attr]
        assert mine[-1].type == "response.output_item.done"
        assert mine[-1].item == item
        deltas = "".join(event.delta for event in mine if event.type.endswith(".delta"))  # type: ignore[union-attr]
        assert deltas == (item.content[0].text if item.type == "message" else item.arguments)  # type: ignore[union-attr]
    assert final.output[1].arguments == OSLO  # type: ignore[union-attr]
    assert final.usage is not None
    assert events[0].response.output == []  # type: ignore[union-attr]


def test_the_clients_own_stream_helper(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    engine.say = lambda _: CALL
    with client.responses.stream(model="tiny", input="hi", tools=[WEATHER]) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_response()
    assert "response.function_call_arguments.done" in kinds
    assert final.output[0].type == "function_call"
    assert (final.output[0].name, final.output[0].arguments) == ("get_weather", OSLO)


def test_a_conversation_with_a_call(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    engine.say = lambda _: CALL
    told: list[Any] = [{"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]}]
    first = client.responses.create(model="tiny", input=told, tools=[WEATHER])
    call = first.output[0]
    assert call.type == "function_call"
    engine.say = lambda _: "It is sunny."
    told += [call.model_dump(), {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]
    second = client.responses.create(model="tiny", input=told, tools=[WEATHER])
    assert second.output_text == "It is sunny."
    lines = [json.loads(line) for line in engine.prompts[1].splitlines()[1:-1]]
    assert [line["role"] for line in lines] == ["user", "assistant", "tool"]
    assert lines[1]["tool_calls"][0]["function"]["arguments"] == {"city": "Oslo"}
    assert lines[1]["tool_calls"][0]["id"] == lines[2]["tool_call_id"] == call.call_id
    told += [*second.output, {"role": "user", "content": "Thanks."}]
    assert client.responses.create(model="tiny", input=told).status == "completed"


def test_a_call_that_must_be_made(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    engine.say = lambda _: '{"name": "get_weather", "arguments": ' + OSLO + "}"
    answer = client.responses.create(
        model="tiny", input="hi", tools=[WEATHER], tool_choice={"type": "function", "name": "get_weather"}
    )
    assert answer.output[0].type == "function_call"
    assert engine.generations[0].request.sampling.guide is not None


class Animal(BaseModel):
    name: str
    legs: int


def test_parse_with_pydantic(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    engine.say = lambda _: '{"name": "spider", "legs": 8}'
    answer = client.responses.parse(model="tiny", input="hi", text_format=Animal)
    assert answer.output_parsed == Animal(name="spider", legs=8)
    guide = engine.generations[0].request.sampling.guide
    assert guide is not None
    assert list(json.loads(guide.text)["properties"]) == ["name", "legs"]


def test_log_probabilities(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="tiny", input="hi", include=["message.output_text.logprobs"], top_logprobs=2)
    part = answer.output[0].content[0]  # type: ignore[union-attr]
    assert [item.token for item in part.logprobs] == list("Hello there.")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"tools": [{"type": "function", "name": "f"}] * 2}, "tools", "invalid_value"),
        ({"instructions": "x", "input": [{"role": "user", "content": "x"}] * 2048}, "input", "invalid_value"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "unsupported_parameter"),
        ({"background": True}, "background", "unsupported_parameter"),
        ({"store": True}, "store", "unsupported_parameter"),
        ({"reasoning": {"effort": "high"}}, "reasoning", "unsupported_parameter"),
        ({"truncation": "auto"}, "truncation", "unsupported_parameter"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": [{"type": "reasoning", "id": "x", "summary": []}]}, "input[0]", "invalid_value"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type", None),
        ({"input": "x" * 5000}, "input", "context_length_exceeded"),
        ({"max_output_tokens": 5000}, "max_output_tokens", "context_length_exceeded"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        (
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "no such type"}}}},
            "text.format",
            "invalid_schema",
        ),
    ],
)
def test_what_is_refused_is_named(client: openai.OpenAI, fields: Any, param: str, code: str | None) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**{"model": "tiny", "input": "hi", **fields})
    assert (caught.value.param or "").startswith(param)
    assert code is None or caught.value.code == code
    assert "`messages`" not in caught.value.message


def test_an_error_in_the_middle_of_a_stream(client: openai.OpenAI, engine: ScriptedEngine, server: LlmServer) -> None:
    engine.fail_at = 5
    kinds: list[str] = []
    stream = client.responses.create(model="tiny", input="hi", stream=True)
    with pytest.raises(openai.APIError, match="the engine ended"):
        kinds.extend(event.type for event in stream)
    assert "response.output_text.delta" in kinds
    assert server.admission.requests == 0
