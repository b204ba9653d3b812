"""Answers as columns, and the report of what limited a job."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pyarrow as pa
import pytest
from tritonclient.grpc.service_pb2 import ModelInferResponse

from serving.batch.rows.request import RowAnswer, RowFault
from serving.batch.sending.places import Discovered, Fixed
from serving.batch.sending.settings import SenderStats
from serving.batch.sending.verdict import Next, fault_of, of_code, of_status, rest_s
from serving.batch.stages.columns import cells_of, columns_of, with_columns
from serving.batch.stages.report import WorkerTimes, report_of
from serving.batch.stages.settings import ProcessorConfig
from serving.config import EtcdConfig
from serving.errors import Code

TARGET = Fixed(("http://127.0.0.1:1",), model="m")
MESH = Discovered(EtcdConfig(("127.0.0.1:1",)), model="m")
USAGE = {"prompt_tokens": 3, "completion_tokens": 2}
FAILED = RowAnswer(fault=RowFault("unavailable", "nobody", 4), attempts=4)


def made(task: str, *answers: RowAnswer) -> dict[str, list[Any]]:
    config = ProcessorConfig(TARGET, task=task)
    columns = columns_of(config, [cells_of(config, one) for one in answers])
    return {name: values.to_pylist() for name, values in columns.items()}


def test_a_chat_and_a_row_that_failed() -> None:
    value = {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}], "usage": USAGE}
    assert made("chat", RowAnswer(200, value), FAILED) == {
        "generated_text": ["hi", None],
        "finish_reason": ["stop", None],
        "prompt_tokens": [3, 0],
        "completion_tokens": [2, 0],
        "__error__": [None, {"code": "unavailable", "message": "nobody", "attempts": 4}],
    }


def test_columns_have_their_types_also_where_every_row_failed() -> None:
    for task in ("chat", "completion", "embedding", "raw"):
        config = ProcessorConfig(TARGET, task=task)
        columns = columns_of(config, [cells_of(config, FAILED)])
        value = {"choices": [{"message": {"content": "a"}, "text": "a"}], "data": [{"embedding": [1]}], "usage": USAGE}
        other = columns_of(config, [cells_of(config, RowAnswer(200, value, b"{}"))])
        assert other["__error__"].to_pylist() == [None]
        assert {name: one.type for name, one in columns.items()} == {name: one.type for name, one in other.items()}


def chosen(**choice: Any) -> dict[str, Any]:
    return {"choices": [choice]}


@pytest.mark.parametrize(
    ("task", "value"),
    [
        ("chat", {}),
        ("chat", []),
        ("chat", {"choices": "x"}),
        ("chat", {"choices": []}),
        ("chat", {"choices": ["x"]}),
        ("chat", chosen(message="hi")),
        ("chat", chosen(message={"content": 3})),
        ("chat", chosen(message={"content": "\ud800"})),
        ("chat", chosen(message={"content": "a"}, finish_reason=1)),
        ("completion", chosen(text={})),
        ("embedding", {"data": [{"embedding": "AAAA"}]}),
        ("embedding", {"data": [{"embedding": "?"}]}),
        ("embedding", {"data": [{"embedding": [1, "x"]}]}),
        ("embedding", {"data": [{"embedding": [[1], [2, 3]]}]}),
        ("embedding", {"data": [{"embedding": 3}]}),
        ("embedding", {"data": [{}]}),
        ("kserve", ModelInferResponse(raw_output_contents=[b"x"])),
    ],
)
def test_an_answer_that_is_none_of_the_task_is_that_rows_fault(task: str, value: Any) -> None:
    config = ProcessorConfig(MESH, task=task, inputs={"x": "int8"} if task == "kserve" else {})
    cells = cells_of(config, RowAnswer(200, value, b"{}", attempts=2))
    assert cells.fault is not None
    assert (cells.fault.code, cells.fault.attempts) == ("invalid_answer", 2)
    assert columns_of(config, [cells])["__error__"].null_count == 0


def test_a_model_that_calls_a_tool_says_nothing() -> None:
    found = made(
        "chat", RowAnswer(200, chosen(message={"content": None, "tool_calls": []}, finish_reason="tool_calls"))
    )
    assert (found["generated_text"], found["finish_reason"], found["__error__"]) == ([None], ["tool_calls"], [None])


def test_vectors_come_as_numbers_and_as_base64() -> None:
    packed = base64.b64encode(struct.pack("<2f", 0.5, -2)).decode()
    found = made("embedding", *(RowAnswer(200, {"data": [{"embedding": one}]}) for one in ([0.5, -2], packed)))
    assert found["embeddings"] == [[0.5, -2.0]] * 2


def test_tokens_that_no_column_can_hold_are_cut() -> None:
    found = made("raw", RowAnswer(200, {"usage": {"prompt_tokens": 1 << 70, "completion_tokens": -1}}, b"{}"))
    assert (found["prompt_tokens"], found["completion_tokens"]) == ([1 << 40], [0])


def test_a_line_of_a_batch_file_has_the_answer_or_an_error() -> None:
    refused = {"error": {"message": "no", "code": "bad"}}
    answers = (
        RowAnswer(200, {"usage": USAGE}, b'{"usage":1}', "req_1"),
        RowAnswer(400, refused, b'{"error":2}', "req_2", fault=RowFault("bad", "no", 1)),
        FAILED,
    )
    found = made("raw", *answers)
    assert found["response"] == [
        {"status_code": 200, "request_id": "req_1", "body": '{"usage":1}'},
        {"status_code": 400, "request_id": "req_2", "body": '{"error":2}'},
        None,
    ]
    assert found["error"] == [None, None, {"code": "unavailable", "message": "nobody"}]
    assert [one and one["code"] for one in found["__error__"]] == [None, "bad", "unavailable"]


def test_columns_of_the_same_name_are_replaced_and_others_stay() -> None:
    table = pa.table({"a": [1], "__error__": [None], "b": [2]})
    found = with_columns(table, {"__error__": pa.array(["x"]), "c": pa.array([3])})
    assert found.to_pylist() == [{"a": 1, "__error__": "x", "b": 2, "c": 3}]


@pytest.mark.parametrize(
    ("status", "found"),
    [
        *((status, Next.ANSWER) for status in (200, 400, 404, 422)),
        *((status, Next.LATER) for status in (429, 503)),
        *((status, Next.ELSEWHERE) for status in (408, 500, 502, 504)),
    ],
)
def test_what_a_status_means(status: int, found: Next) -> None:
    assert of_status(status) is found


def test_what_a_code_means() -> None:
    assert of_code(Code.RESOURCE_EXHAUSTED) is Next.LATER
    assert of_code(Code.UNAVAILABLE) is Next.LATER
    assert of_code(Code.INTERNAL) is Next.ELSEWHERE
    assert of_code(Code.INVALID_ARGUMENT) is Next.ANSWER


def test_faults_are_said_as_the_endpoint_does() -> None:
    assert fault_of(200, {}, b"") is None
    assert fault_of(404, {"error": {"code": "model_not_found", "message": "no"}}, b"") == RowFault(
        "model_not_found", "no"
    )
    assert fault_of(400, {"error": {"code": None, "type": "invalid_request_error"}}, b"") == RowFault(
        "invalid_request_error", ""
    )
    assert fault_of(502, None, b"<html>") == RowFault("http_502", "<html>")
    assert [rest_s(text) for text in ("3", "", "900", "soon", "-1")] == [3.0, 0.0, 30.0, 0.0, 0.0]


def times(prepare_s: float = 0.0, finish_s: float = 0.0, rows: int = 10, **sender: float) -> WorkerTimes:
    counted = {**SenderStats(rows=rows).as_dict(), **sender}
    return WorkerTimes(10.0, prepare_s, finish_s, counted, {"e": 5})


@pytest.mark.parametrize(
    ("worker", "stage", "words"),
    [
        (times(idle_s=8), "source", "no row was there"),
        (times(prepare_s=6, idle_s=7), "prepare", "more of them"),
        (times(finish_s=6), "postprocess", "more of them"),
        (times(endpoint_s=4, window_s=6, refusals=9), "infer", "1 known, 18 refusals"),
        (times(window_s=9), "infer", "replicas were full"),
        (times(rows=0), "source", "no row has come"),
    ],
)
def test_the_report_says_which_stage_limited_the_job(worker: WorkerTimes, stage: str, words: str) -> None:
    report = report_of([worker, worker])
    assert report.stage == stage
    assert words in report.why
    assert (report.workers, report.windows) == (2, {"e": 10})


def test_a_report_before_any_worker_is_one_too() -> None:
    assert report_of([]).workers == 0
