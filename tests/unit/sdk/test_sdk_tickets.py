"""Tickets of the SDK: what results mean, which parts are passed on, what is refused before it is sent."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from serving._proto import broker_pb2 as bpb
from serving.errors import Cancelled, DeadlineExceeded, FailedPrecondition, InvalidArgument, MeshError, NotFound
from serving.sdk.parts import Place, Seen, TicketPart
from serving.sdk.queue import _submit_request
from serving.sdk.tensors import encode_request
from serving.sdk.tickets import _result_of, read_ticket


def response(*values: int) -> bytes:
    request = encode_request("m", {"i": np.array(values)})
    message = service_pb2.ModelInferRequest.FromString(request.SerializeToString())
    made = service_pb2.ModelInferResponse(raw_output_contents=message.raw_input_contents)
    for tensor in message.inputs:
        made.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    return bytes(made.SerializeToString())


def item(state: bpb.State = bpb.SUCCEEDED, **more: Any) -> bpb.Item:
    return bpb.Item(id="j.1", state=state, deployment="d", attempts=3, **more)


def http(body: bytes, status: int = 200, kind: str = "application/json") -> bpb.Result:
    return bpb.Result(http=bpb.HttpAnswer(status=status, content_type=kind, body=body))


def test_results() -> None:
    assert _result_of(item(result=bpb.Result(infer=response(1, 2))))["i"].tolist() == [1, 2]
    several = bpb.Result(infers=bpb.InferAnswers(responses=[response(1), response(2)]))
    assert [one["i"].tolist() for one in _result_of(item(result=several))] == [[1], [2]]
    assert _result_of(item(result=http(b'{"a": 1}'))) == {"a": 1}
    assert _result_of(item(result=http("data: é\n\n".encode(), kind="text/event-stream"))) == "data: é\n\n"


@pytest.mark.parametrize(
    ("ended", "kind", "words"),
    [
        (item(bpb.CANCELLED, reason="by its client"), Cancelled, "j.1 of d was cancelled: by its client"),
        (item(bpb.EXPIRED), DeadlineExceeded, "did not end before its deadline"),
        (item(bpb.DEAD, reason="the last"), FailedPrecondition, "given up after 3 attempts: the last"),
        (item(bpb.FAILED, result=bpb.Result(failure=bpb.Failure(code=3, message="bad"))), InvalidArgument, "bad"),
        (item(bpb.FAILED, result=http(b'{"error": {"message": "no such model"}}', 404)), NotFound, "no such model"),
        (item(bpb.FAILED, result=http(b"<html>", 500)), MeshError, "answered with 500: <html>"),
        (item(bpb.SUCCEEDED, result=http(b"{}", 400)), InvalidArgument, "answered with 400"),
        (item(bpb.FAILED), FailedPrecondition, "failed"),
    ],
)
def test_ends_without_a_result_are_errors(ended: bpb.Item, kind: type[MeshError], words: str) -> None:
    with pytest.raises(kind, match=words):
        _result_of(ended)


def part(number: int, body: bytes, attempt: int = 1) -> bpb.Part:
    return bpb.Part(number=number, attempt=attempt, body=body)


def passed(seen: Seen, *parts: bpb.Part) -> list[int]:
    return [one.number for one in parts if seen.is_next(one)]


def rest(seen: Seen, body: bytes, attempt: int = 1) -> list[tuple[int, bytes]]:
    ended = item(result=http(body, kind="text/event-stream"), attempt=attempt)
    return [(one.number, one.data) for one in seen.rest(ended)]


def test_parts_that_were_all_caught_need_no_rest() -> None:
    seen = Seen()
    assert passed(seen, part(0, b"ab"), part(1, b"cd")) == [0, 1]
    assert rest(seen, b"abcd") == []


def test_what_was_missed_comes_with_the_result() -> None:
    assert rest(Seen(), b"abcd") == [(0, b"abcd")]
    late = Seen()
    assert passed(late, part(0, b"ab"), part(2, b"ef"), part(3, b"gh")) == [0]
    assert rest(late, b"abcdefgh") == [(1, b"cdefgh")]
    again = Seen()
    assert passed(again, part(0, b"ab"), part(0, b"ab")) == [0], "a part that comes twice is passed on once"
    assert rest(again, b"abcd") == [(1, b"cd")]


def test_another_attempt_begins_anew() -> None:
    seen = Seen()
    assert passed(seen, part(0, b"ab"), part(0, b"xy", 2), part(1, b"z", 2)) == [0, 0, 1]
    assert rest(seen, b"xyz!", 2) == [(2, b"!")]
    cut = Seen()
    assert passed(cut, part(0, b"ab"), part(1, b"cd"), part(2, b"z", 2)) == [0, 1]
    assert cut.wants_again
    assert cut.next == 0
    other = Seen()
    assert passed(other, part(0, b"ab")) == [0]
    assert rest(other, b"xyz", 2) == [(0, b"xyz")], "the result is that of an attempt of which nothing was seen"


def test_who_comes_back_gets_what_follows() -> None:
    again = Seen(Place(1, 1, 2))
    assert passed(again, part(1, b"cd")) == [1]
    assert [(one.place, one.data) for one in again.rest(item(result=http(b"abcdef"), attempt=1))] == [
        (Place(1, 2, 4), b"ef")
    ]
    assert rest(Seen(Place(1, 1, 2)), b"abcd") == [(1, b"cd")]
    assert rest(Seen(Place(1, 1, 2)), b"abcd", 2) == [(0, b"abcd")], "another attempt has begun meanwhile"


def test_the_answers_of_a_decoupled_model_stay_apart() -> None:
    seen = Seen()
    assert passed(seen, part(0, response(1))) == [0]
    whole = bpb.Result(infers=bpb.InferAnswers(responses=[response(1), response(2), response(3)]))
    assert [one.outputs()["i"].tolist() for one in seen.rest(item(result=whole, attempt=1))] == [[2], [3]]


def test_a_part_knows_its_events() -> None:
    made = TicketPart(0, 1, b'data: {"a": 1}\n\nevent: x\ndata: {"b": 2}\n\ndata: [DONE]\n\n')
    assert made.events() == [{"a": 1}, {"b": 2}]


def test_tickets_as_texts() -> None:
    app, ticket = read_ticket("team/app/j-1.7.secret")
    assert (str(app), ticket) == ("team/app", "j-1.7.secret")
    for wrong in ("", "j.1.s", "team/app/j.1", "team/a pp/j.1.s", "a/b/c/j.1.s"):
        with pytest.raises(InvalidArgument, match="is no ticket"):
            read_ticket(wrong)


def test_what_is_submitted() -> None:
    made = _submit_request(
        "d",
        {"x": np.array([1])},
        {"priority": "low", "deadline_s": 5, "tenant": "t", "labels": {"a": "b"}, "metadata": {"TraceParent": "z"}},
    )
    assert (made.deployment, made.priority, made.deadline_s, made.tenant) == ("d", bpb.LOW, 5.0, "t")
    assert service_pb2.ModelInferRequest.FromString(made.request.infer).model_name == "d"
    assert dict(made.request.metadata) == {"traceparent": "z"}
    chat = _submit_request("d", None, {"body": {"messages": []}})
    assert chat.request.http.path == "/v1/chat/completions"
    assert json.loads(chat.request.http.body) == {"messages": []}


@pytest.mark.parametrize(
    ("inputs", "options", "words"),
    [
        (None, {}, "give either inputs"),
        ({}, {"body": {}}, "give either inputs"),
        ({}, {"priority": "urgent"}, "priority 'urgent' is not known; allowed are low, default, high"),
        ({}, {"deadline_s": -1}, "deadline_s is -1"),
        ({}, {"deadline_s": float("nan")}, "deadline_s is nan"),
        ({}, {"labels": {"a": 1}}, "is malformed"),
        (None, {"body": {"a": float("nan")}}, "is malformed"),
        (None, {"body": {"a": object()}}, "is malformed"),
    ],
)
def test_what_cannot_be_submitted(inputs: Any, options: Any, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        _submit_request("d", inputs, options)
