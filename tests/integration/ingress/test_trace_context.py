"""The W3C trace context of a request: what the log and Triton's traces say of it."""

from __future__ import annotations

import http.client
import json
import uuid
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from tests.integration.ingress.kserve_cases import infer_request
from tests.integration.ingress.kserve_servers import Ingress
from tests.support.log_records import log_records
from tests.support.waiting import eventually

PARENT = "b7ad6b7169203331"
ONE = [("INPUT0", "FP32", (1,))]


def _request(model: str) -> Any:
    return infer_request(model, ONE, (bytes(4),))


def _unary(server: Ingress, model: str, *headers: tuple[str, str]) -> None:
    with pytest.raises(grpc.RpcError):
        server.stub.ModelInfer(_request(model), timeout=60, metadata=headers)


def _stream(server: Ingress, model: str, *headers: tuple[str, str]) -> None:
    answers = list(server.stub.ModelStreamInfer(iter([_request(model)]), timeout=60, metadata=headers))
    assert answers[0].error_message


def _post(server: Ingress, path: str, body: object, headers: tuple[tuple[str, str], ...]) -> None:
    connection = http.client.HTTPConnection(server.address, timeout=60)
    try:
        connection.request("POST", path, json.dumps(body).encode(), dict(headers))
        answer = connection.getresponse()
        assert answer.status >= 400, answer.read()
    finally:
        connection.close()


def _rest(server: Ingress, model: str, *headers: tuple[str, str]) -> None:
    body = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [1]}]}
    _post(server, f"/v2/models/{model}/infer", body, headers)


def _generate(server: Ingress, model: str, *headers: tuple[str, str]) -> None:
    _post(server, f"/v2/models/{model}/generate", {"INPUT0": [1]}, headers)


WAYS: dict[str, tuple[Callable[..., None], str]] = {
    "unary": (_unary, "ModelInfer"),
    "stream": (_stream, "ModelStreamInfer"),
    "rest": (_rest, "REST infer"),
    "generate": (_generate, "generate"),
}


def _records(server: Ingress, trace_id: str) -> list[dict[str, Any]]:
    return [one for one in log_records(server.log.read_text(errors="replace")) if trace_id in json.dumps(one)]


def _new_trace() -> tuple[str, str]:
    """The id and the header of a trace."""
    trace_id = uuid.uuid4().hex
    return trace_id, f"00-{trace_id}-{PARENT}-01"


@pytest.mark.parametrize("way", WAYS)
def test_a_failed_request_is_logged_with_its_trace(way: str, ingress: Ingress) -> None:
    trace_id, header = _new_trace()
    send, method = WAYS[way]
    send(ingress, "nope", ("traceparent", header), ("tracestate", "vendor=1"))
    record = eventually(lambda: _records(ingress, trace_id), timeout_s=30, what="the record")[0]
    assert (record["msg"], record["method"], record["parent_id"]) == ("request failed", method, PARENT)
    assert record["trace_id"] == trace_id
    assert "nope" in record["error"]
    assert record["code"] == "NOT_FOUND"


@pytest.mark.parametrize("way", WAYS)
def test_a_models_own_failure_too(way: str, ingress: Ingress) -> None:
    """Both records: that of the model's error with its stack, and that of the request."""
    trace_id, header = _new_trace()
    WAYS[way][0](ingress, "failing", ("traceparent", header))
    records = eventually(
        lambda: len(_records(ingress, trace_id)) == 2 and _records(ingress, trace_id), timeout_s=30, what="both records"
    )
    assert {record["msg"] for record in records} == {"model failed", "request failed"}
    assert {record["trace_id"] for record in records} == {trace_id}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("header", ["", "00-1-2-3", f"00-{'0' * 32}-{PARENT}-01", "x" * 55])
def test_no_trace_no_record(way: str, header: str, ingress: Ingress) -> None:
    """Neither without a header nor with one that is wrong, which is answered as if it were not there."""
    model = f"nope_{uuid.uuid4().hex}"
    WAYS[way][0](ingress, model, *([("traceparent", header)] if header else []))
    trace_id, good = _new_trace()
    WAYS[way][0](ingress, "nope", ("traceparent", good))
    eventually(lambda: _records(ingress, trace_id), timeout_s=30, what="the record of the next request")
    assert not _records(ingress, model)


def test_a_good_request_is_answered_the_same(ingress: Ingress) -> None:
    trace_id, header = _new_trace()
    plain = ingress.stub.ModelInfer(_request("id_fp32"), timeout=60)
    assert ingress.stub.ModelInfer(_request("id_fp32"), timeout=60, metadata=[("traceparent", header)]) == plain
    failed_id, failed = _new_trace()
    _unary(ingress, "nope", ("traceparent", failed))
    eventually(lambda: _records(ingress, failed_id), timeout_s=30, what="the record of the next request")
    assert not _records(ingress, trace_id)
