"""One request, one answer: gRPC and REST, what user code sees, and what clients hear when it fails."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from tests.integration.cpp_deployment.conftest import Start
from tests.integration.cpp_deployment.harness import ask, floats, in_flight, tensor, words
from tests.integration.replica.replica_harness import ReplicaProcess
from tests.support.waiting import eventually


@pytest.fixture
def scale(start: Start) -> ReplicaProcess:
    return start("scale", args={"factor": 3, "name": "täst", "list": [1, 2]}, config={"offset": 0.5}, threads=4)


def address(replica: ReplicaProcess) -> str:
    return replica.wait_state("ready").address


def test_a_request_is_answered_by_the_users_code(scale: ReplicaProcess) -> None:
    answer = ask(address(scale), floats(1, 2, -4))

    np.testing.assert_array_equal(answer.as_numpy("y"), floats(3.5, 6.5, -11.5))
    assert "made with factor 3" in scale.log_text()


def test_a_large_tensor_comes_through_whole(scale: ReplicaProcess) -> None:
    x = np.arange(3_000_000, dtype=np.float32)

    np.testing.assert_array_equal(ask(address(scale), x).as_numpy("y"), x * np.float32(3) + np.float32(0.5))


def test_rest_and_grpc_share_one_port(scale: ReplicaProcess) -> None:
    body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}]}).encode()
    request = urllib.request.Request(f"http://{address(scale)}/v2/models/model/infer", data=body)
    with urllib.request.urlopen(request, timeout=30) as answer:
        outputs = json.loads(answer.read())["outputs"]

    assert next(output["data"] for output in outputs if output["name"] == "y") == [3.5, 6.5]


def test_clients_can_read_what_the_deployment_says_of_itself(scale: ReplicaProcess) -> None:
    with triton_grpc.InferenceServerClient(address(scale)) as client:
        metadata = client.get_model_metadata("model")
        config = client.get_model_config("model").config
        assert client.is_server_ready()
        assert client.is_model_ready("model")

    assert [(one.name, one.datatype, list(one.shape)) for one in metadata.inputs] == [
        ("x", "FP32", [-1]),
        ("what", "BYTES", [1]),
    ]
    assert [one.name for one in metadata.outputs] == ["y", "told"]
    assert config.instance_group[0].count == 4


def test_user_code_sees_what_came_with_the_request(scale: ReplicaProcess) -> None:
    answer = ask(
        address(scale),
        floats(1),
        "about",
        request_id="r-7",
        headers={"x-user": "ada"},
        parameters={"color": "blue", "mesh_call": 1},
        client_timeout=60.0,
    )
    request_id, left_ms, user, color, names, args, trace = (text.decode() for text in answer.as_numpy("told"))

    assert (request_id, user, color, names, trace) == ("r-7", "ada", "blue", "model/model/model-r1-0", "none")
    assert 40_000 < int(left_ms) <= 60_000
    assert json.loads(args) == {"factor": 3, "name": "täst", "list": [1, 2]}
    assert answer.get_response().parameters["made_by"].string_param == "scale"


def test_headers_of_http_are_metadata(scale: ReplicaProcess) -> None:
    inputs = [
        {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]},
        {"name": "what", "datatype": "BYTES", "shape": [1], "data": ["about"]},
    ]
    request = urllib.request.Request(
        f"http://{address(scale)}/v2/models/model/infer",
        data=json.dumps({"id": "h-1", "inputs": inputs}).encode(),
        headers={"X-User": "grace"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        outputs = json.loads(answer.read())["outputs"]

    told = next(output["data"] for output in outputs if output["name"] == "told")
    assert told[:4] == ["h-1", "0", "grace", "none"]


@pytest.mark.parametrize(
    ("what", "code", "text"),
    [
        ("throw", "StatusCode.INTERNAL", "it went wrong"),
        ("odd", "StatusCode.INTERNAL", "an exception of an unknown type"),
        ("refuse", "StatusCode.FAILED_PRECONDITION", "not today"),
        ("drop", "StatusCode.INTERNAL", "the deployment dropped the request without an answer"),
        # Clients would take its words for a request that never began.
        ("pretend", "StatusCode.UNAVAILABLE", "this replica is leaving"),
    ],
)
def test_failures_have_the_code_and_the_words_of_the_users_code(
    scale: ReplicaProcess, what: str, code: str, text: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        ask(address(scale), floats(1), what)

    assert (caught.value.status(), caught.value.message()) == (code, text)
    assert ask(address(scale), floats(2)).as_numpy("y").tolist() == [6.5]


def test_requests_are_checked_before_user_code_sees_them(scale: ReplicaProcess) -> None:
    with triton_grpc.InferenceServerClient(address(scale)) as client:
        with pytest.raises(InferenceServerException, match=r"data-type is .INT64., but model .model. expects .FP32."):
            client.infer("model", [tensor("x", np.array([1]), "INT64")])
        with pytest.raises(InferenceServerException, match="unexpected inference input"):
            client.infer("model", [tensor("x", floats(1), "FP32"), tensor("z", floats(1), "FP32")])
        with pytest.raises(InferenceServerException, match=r"input .x. is missing"):
            client.infer("model", [tensor("what", words("about"), "BYTES")])


def test_an_answer_may_come_after_infer_has_returned(scale: ReplicaProcess) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: ask(address(scale), floats(i), "later").as_numpy("y")[0], range(16)))

    assert answers == [float(i) for i in range(16)]


def test_requests_run_on_as_many_threads_as_the_spec_says(scale: ReplicaProcess) -> None:
    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: ask(address(scale), floats(i), "sleep"), range(8)))
    took = time.monotonic() - began

    assert took > 0.55  # eight requests of 0.3 s on four threads


def test_a_client_that_goes_away_cancels_its_request(scale: ReplicaProcess) -> None:
    where = address(scale)

    def counts() -> tuple[int, int]:
        waiting, cancelled = ask(where, floats(1), "count").as_numpy("told")
        return int(waiting), int(cancelled)

    def its_time_is_over() -> bool:
        with pytest.raises(InferenceServerException):
            ask(where, floats(1), "wait", client_timeout=0.5)
        return counts()[1] >= 1  # unless it was over before user code began

    eventually(its_time_is_over, timeout_s=60, what="user code has seen that a deadline has passed")
    eventually(lambda: counts()[0] == 0, timeout_s=60, what="none waits")
    before = counts()[1]
    with triton_grpc.InferenceServerClient(where) as client:
        told = threading.Event()
        inputs = [tensor("x", floats(1), "FP32"), tensor("what", words("wait"), "BYTES")]
        handle = client.async_infer("model", inputs, callback=lambda **_: told.set())
        eventually(lambda: counts()[0] == 1, timeout_s=60, what="it runs")
        handle.cancel()
        assert told.wait(60)
    eventually(lambda: counts() == (0, before + 1), timeout_s=60, what="user code has seen that it was cancelled")


def test_more_than_max_requests_are_refused(start: Start, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    replica = start("scale", max_requests=2, threads=2, args={"gate": str(gate)})
    report = replica.wait_state("ready")
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(ask, report.address, floats(i), "gate") for i in range(2)]
        try:
            eventually(lambda: in_flight(report.metrics_address) == 2, timeout_s=60, what="they run")
            with pytest.raises(InferenceServerException, match="this replica is full: 2 requests") as caught:
                ask(report.address, floats(1))
        finally:
            gate.touch()
        assert [future.result().as_numpy("y")[0] for future in running] == [0, 1]
    assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
    eventually(lambda: in_flight(report.metrics_address) == 0, timeout_s=60, what="they have ended")
    assert ask(report.address, floats(3)).as_numpy("y").tolist() == [3], "there is room again"
