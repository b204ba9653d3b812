"""What a gateway reads of a request to find its replica."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.gateway.demand import answer_limit, choices_of, prompt_text, session_of
from serving.gateway.sizes import AnswerMeter, Sizes

CHAT = "/v1/chat/completions"
TURNS: list[Any] = [
    {"role": "system", "content": "You are brief."},
    {"role": "user", "content": "What is the capital of Japan?"},
    {"role": "assistant", "content": "Tokyo."},
    {"role": "user", "content": "And of France?"},
]
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def chat(messages: Any, **more: Any) -> bytes:
    return prompt_text(CHAT, {"messages": messages, **more})


def test_a_conversation_that_goes_on_begins_as_it_did() -> None:
    for length in range(1, len(TURNS)):
        assert chat(TURNS).startswith(chat(TURNS[:length]))
        assert chat(TURNS, tools=[TOOL]).startswith(chat(TURNS[:length], tools=[TOOL]))


def test_a_message_that_only_begins_alike_has_a_text_that_does() -> None:
    long = [{"role": "user", "content": "a" * 500 + "b"}]
    other = [{"content": "a" * 500 + "c", "role": "user"}]  # the order of keys says nothing
    same = next(at for at, (one, two) in enumerate(zip(chat(long), chat(other), strict=True)) if one != two)
    assert same >= 500


def test_what_changes_the_prompt_changes_the_text() -> None:
    texts = [
        chat(TURNS),
        chat(TURNS, tools=[TOOL]),
        chat(TURNS[:-1]),
        chat([{**TURNS[0], "role": "developer"}, *TURNS[1:]]),
        chat([{**TURNS[0], "name": "bob"}, *TURNS[1:]]),
        chat([{"role": "user", "content": [{"type": "text", "text": "hello"}]}]),
        chat([{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]),
    ]
    assert len(set(texts)) == len(texts)
    assert chat(TURNS, temperature=1, stream=True, user="me") == chat(TURNS)


def test_each_path_has_its_prompt() -> None:
    assert prompt_text("/v1/completions", {"prompt": "Once"}).startswith(b"Once")
    assert prompt_text("/v1/completions", {"prompt": [1, 2, 3]}).startswith(b"[1,2,3]")
    assert b"second" in prompt_text("/v1/completions", {"prompt": ["first", "second"]})
    text = prompt_text("/v1/responses", {"instructions": "Be brief.", "input": "Hello"})
    assert text.startswith(b"Be brief.")
    assert b"Hello" in text
    assert b"some text" in prompt_text("/v1/embeddings", {"input": "some text"})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "x"]), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["messages", "tools", "prompt", "input", "instructions", "n"]), json_values))
def test_no_body_is_too_strange(body: dict[str, Any]) -> None:
    for path in (CHAT, "/v1/completions", "/v1/responses", "/v1/embeddings"):
        assert isinstance(prompt_text(path, body), bytes)
        assert 1 <= choices_of(path, body) <= 128 * 128
        assert answer_limit(path, body) is None


@pytest.mark.parametrize(
    ("path", "body", "wanted"),
    [
        (CHAT, {}, None),
        (CHAT, {"max_tokens": 5}, 5),
        (CHAT, {"max_tokens": 5, "max_completion_tokens": 7}, 7),
        ("/v1/completions", {"max_tokens": 5, "max_completion_tokens": 1}, 5),
        ("/v1/responses", {"max_output_tokens": 9, "max_tokens": 1}, 9),
        (CHAT, {"max_tokens": True}, None),
        (CHAT, {"max_tokens": -1}, None),
        (CHAT, {"max_tokens": "many"}, None),
        (CHAT, {"max_tokens": 10**12}, 1 << 20),
    ],
)
def test_the_bound_of_an_answer_is_the_one_that_replicas_read(path: str, body: Any, wanted: int | None) -> None:
    assert answer_limit(path, body) == wanted


@pytest.mark.parametrize(
    ("path", "body", "wanted"),
    [
        (CHAT, {"n": 3, "prompt": ["a", "b"]}, 3),
        ("/v1/completions", {"n": 3, "prompt": ["a", "b"]}, 6),
        ("/v1/completions", {"prompt": [[1, 2], [3]]}, 2),
        ("/v1/completions", {"n": 2, "prompt": [1, 2, 3]}, 2),
        ("/v1/completions", {"n": 2, "prompt": "a"}, 2),
    ],
)
def test_each_prompt_has_its_choices(path: str, body: Any, wanted: int) -> None:
    assert choices_of(path, body) == wanted


def test_the_first_key_that_is_there_names_the_session() -> None:
    keys = ("x-mesh-session", "prompt_cache_key")
    body = {"prompt_cache_key": "cache", "user": "me"}
    assert session_of(body, "head", keys) == "x-mesh-session\0head"
    assert session_of(body, "", keys) == "prompt_cache_key\0cache"
    assert session_of({"user": "me"}, "", keys) == ""
    assert session_of({"user": "me"}, "", ("user",)) == "user\0me"
    assert session_of({"user": 3}, "", ("user",)) == ""


def test_sizes_are_learned_and_lies_are_not_believed() -> None:
    sizes = Sizes()
    assert sizes.prompt_tokens(400) == 100
    sizes.learn_prompt(1000, 500)
    assert sizes.bytes_per_token == 2
    for _ in range(200):
        sizes.learn_prompt(1000, 200)
    assert sizes.bytes_per_token == pytest.approx(5, rel=0.01)
    sizes.learn_prompt(10, 1000)  # too short to tell
    sizes.learn_prompt(1000, 0)
    assert sizes.bytes_per_token == pytest.approx(5, rel=0.01)
    for _ in range(500):
        sizes.learn_prompt(1000, 10**9)
    assert sizes.bytes_per_token >= 0.25


def test_answers_are_measured_by_events_or_bytes() -> None:
    sizes = Sizes()
    stream = AnswerMeter()
    stream.streamed = True
    for _ in range(20):
        stream.add(b'data: {"n": 1}\n\ndata: {"n": 2}\n\n')
    assert stream.tokens(sizes.bytes_per_token) == 40
    whole = AnswerMeter()
    whole.add(b"x" * 320)
    assert whole.tokens(4.0) == 1
    whole.add(b"x" * 400)
    assert whole.tokens(4.0) == 100
    sizes.learn_answer(40)
    assert sizes.answer_tokens == 40
