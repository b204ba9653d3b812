"""A replica with bounded queues says at once when it is full, with what was full and what to do, and then serves on."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import grpc
import pytest

from tests.integration.ingress.conftest import StartIngress
from tests.integration.ingress.kserve_cases import infer_request
from tests.integration.ingress.kserve_models import pair, text_parameter, write_model
from tests.integration.ingress.kserve_servers import Ingress, in_flight
from tests.integration.ingress.rest_cases import post, tensor
from tests.integration.ingress.test_rest_contract import ask
from tests.support.waiting import eventually

LIMIT = 3
RAW = (bytes(16),)
FULL = (
    f"this replica is full: {LIMIT} requests run or wait (max_requests); send the request to another replica, or later"
)
REQUEST = infer_request("gated", [("INPUT0", "FP32", (4,))], RAW)
OTHER = infer_request("id_fp32", [("INPUT0", "FP32", (4,))], RAW)
BODY = {"inputs": [{**tensor(), "shape": [4], "data": [1, 2, 3, 4]}]}


@pytest.fixture
def server(start_ingress: StartIngress) -> Ingress:
    return start_ingress("--model=gated", "--model=id_fp32", f"--max-requests={LIMIT}")


def fill(server: Ingress) -> list[grpc.Future]:
    """As many calls as may run, all of which wait at the gate."""
    calls = [server.stub.ModelInfer.future(REQUEST, timeout=60) for _ in range(LIMIT)]
    eventually(lambda: in_flight(server) == LIMIT, timeout_s=30, what="the replica to be full")
    return calls


def wait_empty(server: Ingress) -> None:
    """A request counts until its answer has left, which is a moment after the client may have it."""
    eventually(lambda: in_flight(server) == 0, timeout_s=30, what="no request in flight")


def test_unary_calls_beyond_the_limit_are_refused_at_once(server: Ingress, gate: Path) -> None:
    calls = fill(server)
    with pytest.raises(grpc.RpcError) as refused:
        server.stub.ModelInfer(OTHER, timeout=60)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.value.details() == FULL
    gate.touch()
    assert [call.result().outputs[0].name for call in calls] == ["OUTPUT0"] * LIMIT
    wait_empty(server)
    assert server.stub.ModelInfer(OTHER, timeout=60).outputs, "and serves on"


def test_http_requests_beyond_the_limit_are_refused(server: Ingress, gate: Path) -> None:
    calls = fill(server)
    answer = ask(server.address, post("/v2/models/id_fp32/infer", BODY))
    assert (answer.status, json.loads(answer.body)) == (429, {"error": FULL})
    gate.touch()
    for call in calls:
        call.result()
    wait_empty(server)
    assert ask(server.address, post("/v2/models/id_fp32/infer", BODY)).status == 200


def test_requests_of_streams_beyond_the_limit_are_answered_in_the_stream(server: Ingress, gate: Path) -> None:
    calls = fill(server)
    answers = list(server.stub.ModelStreamInfer(iter([OTHER, OTHER]), timeout=60))
    assert [answer.error_message for answer in answers] == [FULL] * 2
    gate.touch()
    for call in calls:
        call.result()
    wait_empty(server)
    answers = list(server.stub.ModelStreamInfer(iter([OTHER, REQUEST]), timeout=60))
    assert [answer.error_message for answer in answers] == [""] * 2
    wait_empty(server)


def test_cancelled_requests_make_room(server: Ingress, gate: Path) -> None:
    for call in fill(server):
        call.cancel()
    gate.touch()
    wait_empty(server)
    assert server.stub.ModelInfer(REQUEST, timeout=60).outputs


def test_without_a_limit_all_are_taken(start_ingress: StartIngress, gate: Path) -> None:
    running = start_ingress("--model=gated")
    calls = [running.stub.ModelInfer.future(REQUEST, timeout=60) for _ in range(4 * LIMIT)]
    eventually(lambda: in_flight(running) == 4 * LIMIT, timeout_s=30, what="all to be taken")
    gate.touch()
    assert all(call.result().outputs for call in calls)


def test_a_models_own_full_queue(tmp_path: Path, backends: Path) -> None:
    """Triton's words and code; our client takes them for a busy replica."""
    opened = tmp_path / "opened"
    gate = text_parameter("execute_gate", str(opened))
    extra = "dynamic_batching { default_queue_policy { max_queue_size: 2 } }\n" + gate
    write_model(tmp_path / "models", "queued", pair("FP32", "[4]"), batch=1, extra=extra)
    request = infer_request("queued", [("INPUT0", "FP32", (1, 4))], RAW)
    with Ingress(tmp_path / "models", backends, tmp_path / "log") as running:
        calls = [running.stub.ModelInfer.future(request, timeout=30) for _ in range(12)]
        # Nothing ends: two wait, one runs, and one has left the queue and waits for the instance.
        eventually(lambda: sum(call.done() for call in calls) >= 8, timeout_s=60, what="eight refusals")
        opened.touch()
        failures = [call.exception() for call in calls]
        codes = Counter("OK" if failure is None else failure.code().name for failure in failures)
        assert set(codes) == {"OK", "UNAVAILABLE"}, codes
        assert 2 <= codes["OK"] <= 4, "two that wait, and what had left the queue by then"
        assert all("Exceeds maximum queue size" in failure.details() for failure in failures if failure)
        assert running.stub.ModelInfer(request, timeout=30).outputs
