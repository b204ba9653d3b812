"""Requests of chat completions and completions: what is taken, what is refused, and which field is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from serving.openai.chat import ChatCompletionRequest, read_chat
from serving.openai.checked import RequestModel, checked
from serving.openai.completions import CompletionRequest, read_completion
from serving.openai.embeddings import EmbeddingRequest
from serving.openai.errors import InvalidRequest
from serving.openai.messages import for_template
from serving.openai.responses import ResponseRequest
from serving.openai.tokens import DetokenizeRequest

USER = {"role": "user", "content": "hi"}
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [USER], **fields}


TAKEN = [
    {"temperature": 1},
    {"temperature": 0.0, "top_p": 1, "n": 2, "seed": -5, "stop": "x"},
    {"stop": ["a", "b", "c", "d"]},
    {"stop": None, "temperature": None, "tools": None, "tool_choice": None, "max_tokens": None},
    {"max_tokens": 5, "max_completion_tokens": 6},
    {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "prompt_cache_key": "k"},
    {"modalities": ["text"], "prediction": {"type": "content", "content": "x"}, "verbosity": "medium"},
    {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "min_tokens": 2, "ignore_eos": True},
    {"chat_template_kwargs": {"thinking": False}, "guided_regex": "[a-z]+"},
    {"stream": True, "stream_options": {"include_usage": True}},
    {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False},
    {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
    {"tool_choice": "none"},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}, "strict": True}}},
    {"logprobs": True, "top_logprobs": 5, "logit_bias": {"5": -100}},
    {"some_extension": 1},
]


@pytest.mark.parametrize("fields", TAKEN)
def test_these_chats_are_taken(fields: dict[str, Any]) -> None:
    assert read_chat(chat(**fields)).model == "m"


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"model": 5}, "model", "invalid_type"),
    ({"model": ""}, "model", "invalid_value"),
    ({"messages": []}, "messages", "invalid_value"),
    ({"messages": "hi"}, "messages", "invalid_type"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
    ({"messages": [USER, {"role": "user", "content": 5}]}, "messages[1].content", "invalid_type"),
    ({"messages": [{"role": "king", "content": "x"}]}, "messages[0]", "invalid_value"),
    ({"messages": [{"content": "x"}]}, "messages[0]", "invalid_value"),
    ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, "messages[0]", "invalid_value"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages[0].content[0].type",
        "invalid_value",
    ),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "missing_required_parameter"),
    ({"temperature": "hot"}, "temperature", "invalid_type"),
    ({"temperature": True}, "temperature", "invalid_type"),
    ({"temperature": 2.1}, "temperature", "invalid_value"),
    ({"top_p": 0}, "top_p", "invalid_value"),
    ({"n": 0}, "n", "invalid_value"),
    ({"n": 1.0}, "n", "invalid_type"),
    ({"max_tokens": 0}, "max_tokens", "invalid_value"),
    ({"max_completion_tokens": "5"}, "max_completion_tokens", "invalid_type"),
    ({"seed": 2**64}, "seed", "invalid_value"),
    ({"stop": ["a"] * 5}, "stop", "invalid_value"),
    ({"stop": ["a", ""]}, "stop[1]", "invalid_value"),
    ({"logit_bias": {"5": 101}}, "logit_bias.5", "invalid_value"),
    ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
    ({"metadata": {str(index): "" for index in range(17)}}, "metadata", "invalid_value"),
    ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
    ({"tool_choice": "auto"}, "tool_choice", "invalid_value"),
    ({"tool_choice": "sometimes", "tools": [WEATHER]}, "tool_choice", "invalid_value"),
    ({"tool_choice": {"type": "function"}, "tools": [WEATHER]}, "tool_choice.function", "missing_required_parameter"),
    (
        {"tool_choice": {"type": "function", "function": {"name": "other"}}, "tools": [WEATHER]},
        "tool_choice",
        "invalid_value",
    ),
    ({"tools": [WEATHER, WEATHER]}, "tools", "invalid_value"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "invalid_value"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "invalid_value"),
    ({"response_format": {"type": "xml"}}, "response_format", "invalid_value"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing_required_parameter"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": 5}}},
        "response_format.json_schema.schema",
        "invalid_type",
    ),
    ({"audio": {"voice": "x"}}, "audio", "unsupported_parameter"),
    ({"modalities": ["text", "audio"]}, "modalities", "unsupported_parameter"),
    ({"functions": []}, "functions", "unsupported_parameter"),
    ({"function_call": "auto"}, "function_call", "unsupported_parameter"),
    ({"store": True}, "store", "unsupported_parameter"),
    ({"service_tier": "scale"}, "service_tier", "unsupported_parameter"),
    ({"reasoning_effort": "high"}, "reasoning_effort", "unsupported_parameter"),
    ({"web_search_options": {}}, "web_search_options", "unsupported_parameter"),
    ({"use_beam_search": True}, "use_beam_search", "unsupported_parameter"),
]


@pytest.mark.parametrize(("fields", "param", "code"), REFUSED)
def test_these_chats_are_refused_by_name(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_chat(chat(**fields))
    assert caught.value.param is not None
    assert caught.value.param.startswith(param)
    assert caught.value.error_code == code
    assert param.split(".")[-1].split("[")[0] in caught.value.message


def test_a_missing_field_is_named() -> None:
    with pytest.raises(InvalidRequest, match="`messages` is missing"):
        read_chat({"model": "m"})


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from([*{name for fields, _, _ in REFUSED for name in fields}, *{name for f in TAKEN for name in f}])


def _refusal(read: Callable[[dict[str, Any]], object], body: dict[str, Any]) -> InvalidRequest | None:
    try:
        read(body)
    except InvalidRequest as error:
        return error
    return None


@given(st.dictionaries(FIELDS, ANY, max_size=4))
def test_any_fields_are_taken_or_refused_by_name(fields: dict[str, Any]) -> None:
    for read, least in ((read_chat, chat()), (read_completion, {"model": "m", "prompt": "x"})):
        refusal = _refusal(read, {**least, **fields})
        assert refusal is None or (refusal.param and refusal.message)


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("x", ["x"]), ("", [""]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]])],
)
def test_prompts_of_completions(prompt: Any, prompts: list[Any]) -> None:
    assert read_completion({"model": "m", "prompt": prompt}).prompts == prompts


@pytest.mark.parametrize("prompt", [None, [], [[]], [1, "a"], 5, {}, [-1], [2**31], ["a"] * 129])
def test_wrong_prompts_of_completions(prompt: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_completion({"model": "m", "prompt": prompt})
    assert (caught.value.param or "").startswith("prompt")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"best_of": 2}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"n": 129}, "n"),
    ],
)
def test_what_completions_do_not_do(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_completion({"model": "m", "prompt": "x", **fields})
    assert caught.value.param == param


def test_choices_of_all_prompts_are_bounded() -> None:
    with pytest.raises(InvalidRequest, match="more than 128 choices"):
        read_completion({"model": "m", "prompt": ["x"] * 100, "n": 2})


def test_messages_for_templates() -> None:
    request = read_chat(
        chat(
            messages=[
                {"role": "developer", "content": "be kind"},
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                    "name": "u",
                },
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
                        {"id": "2", "type": "function", "function": {"name": "g", "arguments": "{broken"}},
                    ],
                },
                {"role": "tool", "tool_call_id": "1", "content": "sunny"},
            ]
        )
    )
    assert for_template(request.messages) == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "a\nb", "name": "u"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}},
                {"id": "2", "type": "function", "function": {"name": "g", "arguments": "{broken"}},
            ],
        },
        {"role": "tool", "content": "sunny", "tool_call_id": "1"},
    ]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "assistant", "content": "x", "audio": {"id": "a"}}, "messages[0].audio"),
        ({"role": "assistant", "content": "x", "function_call": {}}, "messages[0].function_call"),
        ({"role": "assistant"}, "messages[0].content"),
    ],
)
def test_assistant_messages_that_cannot_be_rendered(message: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        for_template(read_chat(chat(messages=[message])).messages)
    assert caught.value.param == param


def test_inputs_of_embeddings() -> None:
    def inputs(value: Any) -> list[Any]:
        return checked(EmbeddingRequest, {"model": "m", "input": value}, {}).inputs

    assert inputs("a") == ["a"]
    assert inputs(["a", "b"]) == ["a", "b"]
    assert inputs([1, 2]) == [[1, 2]]
    assert inputs([[1], [2]]) == [[1], [2]]
    for wrong in ("", [], [""], [[]], 5, None):
        with pytest.raises(InvalidRequest):
            inputs(wrong)


MANY = 10_000
OF_ONE: Any = {"model": "m", "messages": [USER], "prompt": "x", "input": "x"}


@pytest.mark.parametrize("kind", [ChatCompletionRequest, CompletionRequest, ResponseRequest, DetokenizeRequest])
@pytest.mark.parametrize("wrong", [0, -1, "x", {}, [], None, [0], {"role": "user"}])
@pytest.mark.parametrize(
    "field", ["messages", "prompt", "input", "tokens", "tools", "stop", "stop_token_ids", "include", "content"]
)
def test_not_all_mistakes_of_a_long_list_are_gathered(kind: type[RequestModel], wrong: Any, field: str) -> None:
    body = {**OF_ONE, field: [wrong] * MANY}
    if field == "content":
        body |= {name: [{"role": "assistant", "content": [wrong] * MANY}] for name in ("messages", "input")}
    assert _mistakes(kind, body) < 30


@pytest.mark.parametrize("field", ["logit_bias", "metadata"])
@pytest.mark.parametrize("wrong", [0, "x", {}])
def test_not_all_mistakes_of_a_long_mapping_are_gathered(wrong: Any, field: str) -> None:
    assert _mistakes(ChatCompletionRequest, {**OF_ONE, field: {str(index): wrong for index in range(MANY)}}) < 30


def _mistakes(kind: type[RequestModel], body: dict[str, Any]) -> int:
    try:
        kind.model_validate(body)
    except ValidationError as error:
        return error.error_count()
    return 0
