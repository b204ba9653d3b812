"""The tiny chat model under OpenVINO, asked with the `openai` package: all parts of an answer together."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from serving.llm.engine import TextTooLong
from serving.llm.engines import make_engine
from tests.support.llm_server import LlmServer
from tests.support.waiting import eventually

MODEL = Path(__file__).parents[3] / "examples" / "chat" / "model"
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Oslo", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def tiny() -> Iterator[LlmServer]:
    with LlmServer(make_engine("openvino", MODEL, {"threads": 1})) as running:
        yield running


@pytest.fixture(scope="module")
def asked(tiny: LlmServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=tiny.base_url, api_key="none", max_retries=0, timeout=60) as made:
        yield made


def said(text: str) -> Any:
    return [{"role": "user", "content": text}]


def ask(client: openai.OpenAI, text: str, **fields: Any) -> Any:
    return client.chat.completions.create(model="tiny", messages=said(text), temperature=0, **fields)


def test_an_answer_is_the_same_streamed(asked: openai.OpenAI) -> None:
    question = "What is the capital of France?"
    whole = ask(asked, question).choices[0]
    assert "Paris" in whole.message.content
    assert whole.finish_reason == "stop"
    chunks = list(ask(asked, question, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.message.content


def test_a_stop_text_cuts_the_answer(asked: openai.OpenAI) -> None:
    whole = ask(asked, "What is the capital of France?").choices[0].message.content
    cut = ask(asked, "What is the capital of France?", stop=[" of"]).choices[0]
    assert (cut.message.content, cut.finish_reason) == (whole.partition(" of")[0], "stop")


def test_log_probabilities_of_chosen_tokens(asked: openai.OpenAI) -> None:
    choice = ask(asked, "What is the capital of France?", logprobs=True).choices[0]
    tokens = choice.logprobs.content
    assert "".join(token.token for token in tokens) == choice.message.content
    assert all(token.logprob <= 0 and token.top_logprobs == [] for token in tokens)
    with pytest.raises(openai.BadRequestError, match="openvino"):
        ask(asked, "Hello", logprobs=True, top_logprobs=2)


def test_tools_are_called_where_they_are_offered(asked: openai.OpenAI) -> None:
    choice = ask(asked, "What is the weather in Oslo?", tools=[WEATHER]).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert json.loads(choice.message.tool_calls[0].function.arguments) == {"city": "Oslo"}
    assert (
        not ask(asked, "What is the weather in Oslo?", tools=[WEATHER], tool_choice="none")
        .choices[0]
        .message.tool_calls
    )


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_call_that_must_be_made_is_one(asked: openai.OpenAI, choice: Any) -> None:
    answer = ask(asked, "Hello", tools=[WEATHER], tool_choice=choice, max_tokens=200).choices[0]
    assert answer.finish_reason == "tool_calls"
    call = answer.message.tool_calls[0].function
    assert call.name == "get_weather"
    assert json.loads(call.arguments)["city"] in ("Oslo", "Rome")


class Pet(BaseModel):
    kind: Literal["cat", "dog"]
    legs: Literal[2, 4]


def test_parse_with_pydantic(asked: openai.OpenAI) -> None:
    parsed = asked.chat.completions.parse(model="tiny", messages=said("Hello"), response_format=Pet, max_tokens=200)
    assert isinstance(parsed.choices[0].message.parsed, Pet)
    answer = asked.responses.parse(model="tiny", input="Hello", text_format=Pet, max_output_tokens=200)
    assert isinstance(answer.output_parsed, Pet)


def schema(of: Any) -> Any:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": of}}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (schema({"type": "no such type"}), "response_format"),
        (schema({"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}}), "response_format"),
        ({"extra_body": {"guided_regex": "(("}}, "guided_regex"),
    ],
)
def test_guides_that_cannot_be_followed(asked: openai.OpenAI, fields: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(asked, "Hello", **fields)
    assert (caught.value.param or "").startswith(param)
    assert ask(asked, "Hello").choices[0].message.content


def test_no_text_is_cut_silently(asked: openai.OpenAI, tiny: LlmServer) -> None:
    codec = tiny.engine.codec
    text = "hello world " * 1_000
    assert codec.decode(codec.encode(text)) == text
    with pytest.raises(TextTooLong, match="8192 tokens or more"):
        codec.encode(text * 20)
    with pytest.raises(openai.BadRequestError, match="2048 tokens") as caught:
        asked.completions.create(model="tiny", prompt=text * 20)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")


def test_prompts_that_do_not_fit(asked: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(asked, "x " * 100_000)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
    with pytest.raises(openai.BadRequestError, match="vocabulary"):
        asked.completions.create(model="tiny", prompt=[10**9], echo=True)


def test_a_client_that_goes_away_frees_the_engine(asked: openai.OpenAI, tiny: LlmServer) -> None:
    fields: Any = {"max_tokens": 1900, "extra_body": {"ignore_eos": True}}
    took_s: list[float] = []
    for _ in range(5):
        streams = [ask(asked, "Tell me a story.", stream=True, **fields) for _ in range(4)]
        for stream in streams:
            next(iter(stream))
        assert tiny.engine.load().running
        for stream in streams:
            stream.close()
        closed = time.monotonic()
        eventually(lambda: tiny.admission.requests == 0, timeout_s=60, what="the places were given back")
        eventually(lambda: tiny.engine.load().running == 0, timeout_s=60, what="the engine computes nothing")
        took_s.append(time.monotonic() - closed)
    assert min(took_s) < 5, "the engine went on"  # of several: a busy machine may look away for longer
