"""A replica with bounded queues says at once when it is full, with what was full and what to do, and then serves on."""

from __future__ import annotations

import json
import urllib.request
from collections import Counter
from pathlib import Path

import grpc
import pytest

from tests.integration.ingress.conftest import StartIngress
from tests.integration.ingress.kserve_cases import infer_request
from tests.integration.ingress.kserve_models import delay, pair, write_model
from tests.integration.ingress.kserve_servers import Ingress
from tests.integration.ingress.rest_cases import post, tensor
from tests.integration.ingress.test_rest_contract import ask
from tests.support.waiting import eventually

LIMIT = 3
RAW = (bytes(16),)
FULL = (
    f"this replica is full: {LIMIT} requests run or wait (max_requests); send the request to another replica, or later"
)
REQUEST = infer_request("slow", [("INPUT0", "FP32", (4,))], RAW)
BODY = {"inputs": [{**tensor(), "shape": [4], "data": [1, 2, 3, 4]}]}


@pytest.fixture
def full(start_ingress: StartIngress) -> Ingress:
    """One with `LIMIT` requests of 400 ms each, on one instance."""
    running = start_ingress("--model=slow", "--model=id_fp32", f"--max-requests={LIMIT}")
    running.stub.ModelInfer(REQUEST, timeout=30)
    return running


def fill(server: Ingress) -> list[grpc.Future]:
    """As many calls as may run; returns when the server is full."""
    calls = [server.stub.ModelInfer.future(REQUEST, timeout=30) for _ in range(LIMIT)]
    eventually(lambda: in_flight(server) == LIMIT, timeout_s=10, what="the replica to be full")
    return calls


def in_flight(server: Ingress) -> int:
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    (value,) = [line.split()[1] for line in lines if line.startswith("mesh_ingress_in_flight ")]
    return int(float(value))


def test_unary_calls_beyond_the_limit_are_refused_at_once(full: Ingress) -> None:
    calls = fill(full)
    with pytest.raises(grpc.RpcError) as refused:
        full.stub.ModelInfer(infer_request("id_fp32", [("INPUT0", "FP32", (4,))], RAW), timeout=30)
    assert not calls[-1].done(), "a refusal must not wait for anything"
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.value.details() == FULL
    assert [call.result().outputs[0].name for call in calls] == ["OUTPUT0"] * LIMIT
    assert full.stub.ModelInfer(REQUEST, timeout=30).outputs, "and serves on"


def test_http_requests_beyond_the_limit_are_refused_and_the_connection_stays(full: Ingress) -> None:
    calls = fill(full)
    answer = ask(full.address, post("/v2/models/slow/infer", BODY))
    assert (answer.status, json.loads(answer.body)) == (429, {"error": FULL})
    for call in calls:
        call.result()
    assert ask(full.address, post("/v2/models/slow/infer", BODY)).status == 200


def test_requests_of_streams_beyond_the_limit_are_answered_in_the_stream(full: Ingress) -> None:
    requests = iter([REQUEST] * (LIMIT + 2))
    answers = list(full.stub.ModelStreamInfer(requests, timeout=30))
    assert [answer.error_message for answer in answers] == [""] * LIMIT + [FULL] * 2
    assert in_flight(full) == 0


def test_cancelled_requests_make_room(full: Ingress) -> None:
    for call in fill(full):
        call.cancel()
    eventually(lambda: in_flight(full) == 0, timeout_s=10, what="room")
    assert full.stub.ModelInfer(REQUEST, timeout=30).outputs


def test_without_a_limit_all_are_answered(start_ingress: StartIngress) -> None:
    running = start_ingress("--model=slow")
    calls = [running.stub.ModelInfer.future(REQUEST, timeout=30) for _ in range(4 * LIMIT)]
    assert all(call.result().outputs for call in calls)


def test_a_models_own_full_queue(tmp_path: Path, backends: Path) -> None:
    """Triton's words and code; our client takes them for a busy replica."""
    extra = "dynamic_batching { default_queue_policy { max_queue_size: 2 } }\n" + delay(200)
    write_model(tmp_path / "models", "queued", pair("FP32", "[4]"), batch=1, extra=extra)
    request = infer_request("queued", [("INPUT0", "FP32", (1, 4))], RAW)
    with Ingress(tmp_path / "models", backends, tmp_path / "log") as running:
        calls = [running.stub.ModelInfer.future(request, timeout=30) for _ in range(12)]
        failures = [call.exception() for call in calls]
        codes = Counter("OK" if failure is None else failure.code().name for failure in failures)
        assert set(codes) == {"OK", "UNAVAILABLE"}, codes
        assert 2 <= codes["OK"] <= 4, "two that wait, and what had left the queue by then"
        assert all("Exceeds maximum queue size" in failure.details() for failure in failures if failure)
        assert running.stub.ModelInfer(request, timeout=30).outputs
