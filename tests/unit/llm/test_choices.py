"""From events to what is new: stop texts, calls, reasons, log probabilities."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.llm.answers import AnswerHead, ChatAnswer, ChatChunks
from serving.llm.choice import Choice, ChoiceDelta
from serving.llm.engine import TokenEvent
from serving.llm.tool_calls import ToolCallParser
from serving.openai.usage import usage_of
from tests.support.scripted_engine import ByteCodec

HEAD = AnswerHead("chatcmpl-1", 7, "m", "fp_1")
CALL = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'


def run(parts: list[bytes], *, finish: Any = "stop", **options: Any) -> list[ChoiceDelta]:
    choice = Choice(0, ByteCodec(), **options)
    told: list[ChoiceDelta] = []
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        told.append(choice.push(TokenEvent(tuple(part), finish=finish if last else None)))
        if choice.done:
            break
    return told


def bytewise(text: str) -> list[bytes]:
    return [bytes([item]) for item in text.encode()] or [b""]


def whole(told: list[ChoiceDelta]) -> dict[str, Any]:
    answer = ChatAnswer(HEAD, lambda: "call_1", 1, logprobs=False)
    for new in told:
        answer.add(new)
    return dict(answer.whole(usage_of(1, 2, -1))["choices"][0])


def streamed(told: list[ChoiceDelta]) -> dict[str, Any]:
    """The chunks put together, as a client does."""
    chunks = ChatChunks(HEAD, lambda: "call_1", logprobs=False, include_usage=False)
    message: dict[str, Any] = {"role": None, "content": "", "refusal": None}
    calls: list[dict[str, Any]] = []
    finish = None
    for chunk in [*chunks.begin(1), *(chunk for new in told for chunk in chunks.of(new))]:
        assert finish is None, "something came after the reason of the end"
        choice = chunk["choices"][0]
        delta = choice["delta"]
        message["role"] = delta.get("role", message["role"])
        message["content"] += delta.get("content") or ""
        for call in delta.get("tool_calls", []):
            function = call["function"]
            if "id" in call:
                assert call["index"] == len(calls)
                named = {"name": function["name"], "arguments": ""}
                calls.append({"id": call["id"], "type": call["type"], "function": named})
            calls[call["index"]]["function"]["arguments"] += function["arguments"]
        finish = choice["finish_reason"]
    if calls:
        message |= {"tool_calls": calls, "content": message["content"] or None}
    return {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}


@given(
    st.lists(st.sampled_from(["Hello ", "STOP", "ST", "é😀", CALL, "<tool_call>", "\n", "x"]), max_size=6).map("".join),
    st.integers(1, 9),
    st.sampled_from([(), ("STOP",)]),
    st.booleans(),
    st.sampled_from(["stop", "length"]),
)
def test_a_stream_adds_up_to_the_answer(text: str, size: int, stops: Any, tools: bool, finish: str) -> None:
    data = text.encode()
    parts = [data[at : at + size] for at in range(0, len(data), size)] or [b""]

    def told() -> list[ChoiceDelta]:
        return run(parts, finish=finish, stops=stops, calls=ToolCallParser(["f"]) if tools else None)

    assert streamed(told()) == whole(told())


@given(
    st.lists(st.sampled_from(["Hello ", "STOP", "ST", "é😀", CALL, "<tool_call>", "x"]), min_size=1, max_size=6).map(
        "".join
    ),
    st.integers(2, 40),
    st.sampled_from([(), ("STOP",)]),
    st.sampled_from([None, False, True]),
    st.sampled_from(["stop", "length"]),
)
def test_tokens_that_come_together_make_the_answer_of_those_that_come_alone(
    text: str, size: int, stops: Any, single: bool | None, finish: str
) -> None:
    """Also its cost: what an engine computed behind the end is not the client's."""
    data = text.encode()
    cut = [data[at : at + size] for at in range(0, len(data), size)]

    def told(parts: list[bytes]) -> tuple[dict[str, Any], list[int]]:
        calls = None if single is None else ToolCallParser(["f"])
        deltas = run(parts, finish=finish, stops=stops, calls=calls, single=bool(single))
        return whole(deltas), [token for delta in deltas for token in delta.tokens]

    alone, tokens = told(bytewise(text))
    together, at_once = told(cut)
    assert together == alone
    if stops or single:
        assert at_once == tokens


def test_text_and_reason() -> None:
    assert whole(run(bytewise("Grüße"), finish="length"))["message"]["content"] == "Grüße"
    assert whole(run(bytewise("Grüße"), finish="length"))["finish_reason"] == "length"


def test_a_stop_text_ends_it_and_is_not_said() -> None:
    told = run(bytewise("one, two, three"), stops=[", t"])
    assert whole(told)["message"]["content"] == "one"
    assert told[-1].finish == "stop"
    assert len(told) == len("one, t")


def test_a_call_is_the_reason() -> None:
    choice = whole(run(bytewise(f"Wait. {CALL}"), calls=ToolCallParser(["f"])))
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Wait. "
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a": 1}'}


def test_a_call_that_was_cut_says_length() -> None:
    choice = whole(run(bytewise(CALL[:-20]), finish="length", calls=ToolCallParser(["f"])))
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "f"


def test_only_calls_have_no_content() -> None:
    assert whole(run(bytewise(f"\n{CALL}\n"), calls=ToolCallParser(["f"])))["message"]["content"] is None


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_single_call_ends_the_choice(size: int) -> None:
    data = f"{CALL}\n{CALL} and text".encode()
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    choice = whole(run(parts, calls=ToolCallParser(["f"]), single=True))
    assert len(choice["message"]["tool_calls"]) == 1
    assert choice["message"]["content"] is None
    assert choice["finish_reason"] == "tool_calls"


def test_log_probabilities_go_with_their_tokens() -> None:
    choice = Choice(0, ByteCodec(), stops=["zz"])
    event = TokenEvent((65, 0xC3), (-0.1, -0.2), ({65: -0.1, 66: -3.0}, {67: -2.0, 0xC3: -0.2}), "stop")
    new = choice.push(event)
    assert [(token.text, token.logprob, token.data) for token in new.scored] == [
        ("A", -0.1, [65]),
        ("\ufffd", -0.2, None),
    ]
    assert new.scored[1].top == (("\ufffd", -0.2), ("C", -2.0))


def test_held_back_text_still_tells_its_tokens() -> None:
    choice = Choice(0, ByteCodec(), stops=["zz"])
    new = choice.push(TokenEvent((ord("z"),), (-0.1,)))
    chunks = list(ChatChunks(HEAD, str, logprobs=True, include_usage=True).of(new))
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [{"content": ""}]
    logprobs = chunks[0]["choices"][0]["logprobs"]
    assert logprobs is not None
    assert [item["token"] for item in logprobs["content"] or []] == ["z"]
    assert chunks[0]["usage"] is None


def test_who_may_end_before_its_engine_does_says_so() -> None:
    codec = ByteCodec()
    assert not Choice(0, codec).ends_early
    assert Choice(0, codec, stops=["x"]).ends_early
    parser = ToolCallParser(frozenset({"f"}), inside=False)
    assert not Choice(0, codec, calls=parser).ends_early
    assert Choice(0, codec, calls=parser, single=True).ends_early
