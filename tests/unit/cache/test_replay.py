"""Answers that are put together of streams, and streams that are made of answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.cache import replay
from serving.cache.generated import EVENTS, completion
from serving.errors import InvalidArgument

USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def answer(text: str, **more: Any) -> dict[str, Any]:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, "refusal": None},
        "logprobs": None,
        "finish_reason": "stop",
    }
    return {"object": "chat.completion", "model": "m", "system_fingerprint": "fp_1", "choices": [choice], **more}


def encoded(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


@given(st.text(min_size=1, max_size=9000))
def test_a_stream_of_an_answer_is_that_answer_again(text: str) -> None:
    made = answer(text, usage=USAGE)
    text.encode("utf-8", "surrogatepass")
    events = replay.stream(encoded(made), now=5.5, include_usage=True)
    assert completion(events, "text/event-stream; charset=utf-8") == made


def test_the_events_of_a_stream() -> None:
    events = replay.stream(encoded(answer("x" * 5000, usage=USAGE)), now=5.5, include_usage=False).split(b"\n\n")
    assert events[-2:] == [b"data: [DONE]", b""]
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events[:-2]]
    assert [chunk["object"] for chunk in chunks] == ["chat.completion.chunk"] * 4
    assert all(chunk["created"] == 5 and "usage" not in chunk for chunk in chunks)
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "x" * 4096},
        {"content": "x" * 904},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]


def test_usage_stands_in_a_chunk_of_its_own() -> None:
    events = replay.stream(encoded(answer("x", usage=USAGE)), now=5, include_usage=True).split(b"\n\n")
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events[:-2]]
    assert [chunk["usage"] for chunk in chunks] == [None, None, None, USAGE]
    assert chunks[-1]["choices"] == []


def test_log_probabilities_survive_a_stream() -> None:
    scored = {"content": [{"token": "x", "logprob": -0.5, "bytes": [120], "top_logprobs": []}], "refusal": None}
    made = answer("x")
    made["choices"][0]["logprobs"] = scored
    again = completion(replay.stream(encoded(made), now=5, include_usage=False), EVENTS)
    assert again["choices"][0]["logprobs"] == scored


def test_each_replay_is_an_answer_of_its_own() -> None:
    made = encoded(answer("x", id="chatcmpl-1", created=1))
    first, second = (json.loads(replay.whole(made, now=7.0)) for _ in range(2))
    assert first["id"] != second["id"] != "chatcmpl-1"
    assert (first["created"], first["choices"]) == (7, answer("x")["choices"])


def event(**chunk: Any) -> str:
    return f"data: {json.dumps({'object': 'chat.completion.chunk', 'model': 'm', **chunk})}\n\n"


def piece(finish: str | None = None, index: int = 0, **delta: Any) -> str:
    return event(choices=[{"index": index, "delta": delta, "finish_reason": finish}])


def test_other_ways_to_write_events_and_the_tokens_that_replicas_count() -> None:
    text = ": hello\n\n" + piece(content="a").replace("data: ", "data:") + piece("stop", content="b")
    text += ': mesh-usage {"prompt_tokens": 4}\n\ndata: [DONE]\n\n'
    for data in (text, text.replace("\n", "\r\n"), text.replace("\n", "\r")):
        made = completion(data.encode(), EVENTS)
        assert made["choices"][0]["message"]["content"] == "ab"
        assert made["usage"] == {"prompt_tokens": 4}
        assert made["model"] == "m"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (piece("stop", content="a"), "no end"),
        ("", "no end"),
        (piece(content="a") + 'data: {"error": {"message": "broken"}}\n\ndata: [DONE]\n\n', "an error"),
        (piece(content="a") + piece(index=1, content="b") + "data: [DONE]\n\n", "several choices"),
        (piece(tool_calls=[{"index": 0}]) + "data: [DONE]\n\n", "more than text"),
        (piece(reasoning_content="hm") + "data: [DONE]\n\n", "more than text"),
        (piece(content=5) + "data: [DONE]\n\n", "no text"),
        (event(choices=5) + "data: [DONE]\n\n", "malformed"),
        (event(choices=[5]) + "data: [DONE]\n\n", "malformed"),
        ("data: {\n\ndata: [DONE]\n\n", "no JSON"),
        ("data: [1]\n\ndata: [DONE]\n\n", "no JSON object"),
        ("data: " + "[" * 100_000 + "\n\ndata: [DONE]\n\n", "no JSON"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_streams_that_are_not_kept(data: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        completion(data.encode(), EVENTS)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"object": "list"}', b'{"object": {"a": 1}}', b"\xff"])
def test_what_is_no_answer_in_one_piece(data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        completion(data, "application/json")
