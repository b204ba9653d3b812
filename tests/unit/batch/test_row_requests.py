"""Rows as requests: what they are made of, what is refused, and which are the same."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.batch.rows.request import CHAT, COMPLETIONS, EMBEDDINGS, openai_request
from serving.batch.sending.places import Discovered, Fixed
from serving.batch.stages.requests import needed_columns, request_of
from serving.batch.stages.settings import ProcessorConfig
from serving.config import EtcdConfig
from serving.errors import InvalidArgument, NotSupported

TARGET = Fixed(("http://127.0.0.1:1",), model="m")
MESH = Discovered(EtcdConfig(("127.0.0.1:1",)), model="m")


def config(task: str, **changes: Any) -> ProcessorConfig:
    return ProcessorConfig(TARGET, task=task, **changes)


def test_a_chat_is_of_messages_or_of_a_prompt_with_the_system_before_it() -> None:
    given = [{"role": "user", "content": "hi", "name": None}]
    assert request_of(config("chat"), {"messages": given}).body == {"messages": [{"role": "user", "content": "hi"}]}
    asked = request_of(config("chat", system="be brief", template="Say {word}"), {"word": "x"})
    assert asked.body["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "Say x"},
    ]


def test_sampling_of_the_row_wins_over_that_of_the_job() -> None:
    made = request_of(
        config("completion", sampling={"max_tokens": 5, "temperature": 1}),
        {"prompt": "p", "sampling_params": {"max_tokens": np.int64(7), "top_p": None}},
    )
    assert made.body == {"max_tokens": 7, "temperature": 1, "prompt": "p"}
    assert (made.path, made.expected) == (COMPLETIONS, pytest.approx(7, abs=0.1))


def test_a_line_of_a_batch_file_keeps_its_body_whatever_it_holds() -> None:
    body = {"model": "a", "prompt": "p", "stop": None, "max_tokens": 3}
    made = request_of(config("raw"), {"custom_id": "1", "url": COMPLETIONS, "body": json.dumps(body)})
    assert (made.body, made.path, made.model) == (body, COMPLETIONS, "a")


@pytest.mark.parametrize(
    ("task", "row", "words"),
    [
        ("chat", {"messages": "hi"}, "messages: a list"),
        ("chat", {"other": 1}, r"prompt: the row has none \(columns: other\)"),
        ("completion", {"prompt": "p", "sampling_params": 3}, "sampling_params: an object"),
        ("completion", {"prompt": "p", "expected_tokens": "many"}, "expected_tokens: a number"),
        ("completion", {"prompt": "p", "sampling_params": {"stream": True}}, "stream: a row has one answer"),
        ("raw", {"url": "/v1/nope", "body": "{}"}, "url: '/v1/nope' is not known"),
        ("raw", {"url": CHAT, "body": "{"}, "body: is no JSON"),
        ("raw", {"url": CHAT, "body": "[]"}, "body: an object is wanted, found list"),
        ("raw", {"url": None, "body": "{}"}, "url: a text"),
        ("raw", {"url": CHAT, "body": "[" * 100_000}, "body: is no JSON"),
        ("completion", {"prompt": b"p"}, "cannot be said in JSON"),
        ("completion", {"prompt": "p", "expected_tokens": float("inf")}, "expected_tokens: a number"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(task: str, row: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        request_of(config(task), row)


def test_a_template_that_does_not_fit_is_said() -> None:
    with pytest.raises(InvalidArgument, match=r"template.*KeyError"):
        request_of(config("chat", template="{absent}"), {"text": "x"})


@pytest.mark.parametrize("template", ["Say {word}", "{word:5.2f}", "{word.upper}"])
@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_cell_that_is_null_makes_no_prompt(template: str, value: Any) -> None:
    with pytest.raises(InvalidArgument, match="the column word is null"):
        request_of(config("chat", template=template), {"word": value})
    with pytest.raises(InvalidArgument, match="prompt: the row has none"):
        request_of(config("completion"), {"prompt": value})


def test_nulls_of_pandas_are_none() -> None:
    nothing = float("nan")
    row = {"prompt": "p", "expected_tokens": nothing, "sampling_params": {"max_tokens": 3, "top_p": nothing}}
    assert request_of(config("completion"), row).body == {"prompt": "p", "max_tokens": 3}
    assert request_of(config("completion"), {"prompt": "p", "sampling_params": nothing}).body == {"prompt": "p"}
    assert request_of(config("embedding"), {"input": nothing, "prompt": "p"}).body == {"input": "p"}
    assert request_of(config("chat"), {"messages": nothing, "prompt": "p"}).body["messages"][0]["content"] == "p"


ODD: Any = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.dates(),
    st.decimals(),
    st.just({1}),
    st.just(np.array([1, 2])),
    st.just(np.float32(1)),
)
CELL = st.recursive(
    ODD, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner), max_leaves=5
)


@given(
    st.sampled_from(["chat", "completion", "embedding", "raw"]),
    st.dictionaries(
        st.sampled_from(["prompt", "messages", "input", "body", "sampling_params", "expected_tokens"]), CELL
    ),
    st.sampled_from([{}, {"temperature": 0}]),
)
def test_any_cells_make_a_request_or_say_what_is_wrong(
    task: str, row: dict[str, Any], sampling: dict[str, Any]
) -> None:
    with contextlib.suppress(InvalidArgument):  # nothing else: it would end a job of a million rows
        assert request_of(config(task, sampling=sampling), {"url": COMPLETIONS, **row}).path


@given(st.sampled_from(["int8", "float32", "bool", "str", "bytes"]), CELL)
def test_any_cell_makes_a_tensor_or_says_what_is_wrong(datatype: str, value: Any) -> None:
    with contextlib.suppress(InvalidArgument):
        assert request_of(ProcessorConfig(MESH, task="kserve", inputs={"x": datatype}), {"x": value}).model == "m"


def test_a_row_of_tensors_gets_the_models_first_dimension_and_its_priority() -> None:
    made = request_of(
        ProcessorConfig(MESH, task="kserve", inputs={"x": "float32", "s": "str"}, outputs=("y",), priority=2),
        {"x": [1, 2], "s": ["a"]},
    )
    head = made.body.head
    assert [(one.name, one.datatype, list(one.shape)) for one in head.inputs] == [
        ("x", "FP32", [1, 2]),
        ("s", "BYTES", [1, 1]),
    ]
    assert head.parameters["priority"].int64_param == 2
    assert [one.name for one in head.outputs] == ["y"]
    assert made.model == "m"
    with pytest.raises(InvalidArgument, match="x: is no tensor of float32: overflow"):
        request_of(ProcessorConfig(MESH, task="kserve", inputs={"x": "float32"}), {"x": [3.5e38]})
    for wrong in ([300], [-1.5], [float("nan")], ["5"]):
        with pytest.raises(InvalidArgument, match="x: is no tensor of int8"):
            request_of(ProcessorConfig(MESH, task="kserve", inputs={"x": "int8"}), {"x": wrong})
    with pytest.raises(InvalidArgument, match="x: the row has no such tensor"):
        request_of(ProcessorConfig(MESH, task="kserve", inputs={"x": "float32"}), {"y": 1})


def test_only_requests_whose_answer_is_determined_are_the_same() -> None:
    greedy = {"model": "m", "prompt": "p", "temperature": 0}
    other_order = dict(reversed(greedy.items()))
    assert openai_request(COMPLETIONS, greedy).same == openai_request(COMPLETIONS, other_order).same != b""
    assert openai_request(COMPLETIONS, {"prompt": "p"}).same == b""
    assert openai_request(COMPLETIONS, {"prompt": "p", "seed": 1}).same != b""
    assert openai_request(EMBEDDINGS, {"input": "p"}).same != b""
    assert openai_request(COMPLETIONS, greedy).same != openai_request(CHAT, greedy).same


@given(st.text(min_size=256, max_size=300), st.text(max_size=5), st.text(max_size=5))
def test_prompts_that_begin_alike_have_one_prefix_and_short_ones_none(start: str, one: str, other: str) -> None:
    prefixes = {openai_request(COMPLETIONS, {"prompt": start + end}).prefix for end in (one, other)}
    assert len(prefixes) == 1
    assert b"" not in prefixes
    assert openai_request(COMPLETIONS, {"prompt": one}).prefix == b""


def test_only_the_columns_that_requests_are_made_of_are_read() -> None:
    assert needed_columns(config("raw")) == {"url", "body", "sampling_params", "expected_tokens"}
    assert needed_columns(config("chat", template="{a}")) is None


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="task: 'chats'"):
        config("chats")
    with pytest.raises(NotSupported, match="tensors"):
        config("kserve", inputs={"x": "float32"})
    with pytest.raises(InvalidArgument, match="inputs: x: 'flot'"):
        ProcessorConfig(MESH, task="kserve", inputs={"x": "flot"})
    with pytest.raises(InvalidArgument, match="on_error"):
        config("chat", on_error="ignore")
    with pytest.raises(InvalidArgument, match="concurrency"):
        config("chat", concurrency=(3, 2))
    with pytest.raises(InvalidArgument, match="and no path"):
        Fixed(("http://host/v1",))
