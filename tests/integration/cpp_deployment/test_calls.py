"""Code that asks models of its own Triton, and other deployments of its application."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from serving.config import EtcdConfig
from tests.integration.cpp_deployment.conftest import Start
from tests.integration.cpp_deployment.harness import floats, tensor, words

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def asked(address: str, how: str, x: NDArray[np.float32], **more: Any) -> NDArray[np.float32]:
    inputs = [tensor("x", x, "FP32"), tensor("how", words(how), "BYTES")]
    with triton_grpc.InferenceServerClient(address) as client:
        answer = client.infer("asks", inputs, **{"client_timeout": 30, **more}).as_numpy("y")
    assert answer is not None
    return answer


@pytest.fixture
def models(start: Start, repository: Path) -> str:
    replica = start("asks", repository=repository, model="asks", args={"warm_up": True})
    return replica.wait_state("ready").address


def test_models_are_asked_in_process(models: str) -> None:
    for how in ("model", "async"):
        np.testing.assert_array_equal(asked(models, how, floats(1, 2, 3)), floats(1, 2, 3))


def test_large_tensors_go_to_models_and_back(models: str) -> None:
    x = np.arange(2_000_000, dtype=np.float32)
    for how in ("model", "async"):
        np.testing.assert_array_equal(asked(models, how, x), x)


def test_clients_may_ask_the_models_as_well(models: str) -> None:
    with triton_grpc.InferenceServerClient(models) as client:
        answer = client.infer("echo", [tensor("IN", floats(5), "FP32")])
        assert {one.name for one in client.get_model_repository_index().models} == {"asks", "echo", "slow"}
    assert answer.as_numpy("OUT").tolist() == [5]


def test_many_questions_at_a_time(models: str) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda i: asked(models, ("model", "async")[i % 2], floats(i, i + 1)), range(200)))

    assert [answer.tolist() for answer in answers] == [[i, i + 1] for i in range(200)]


def test_a_model_that_is_not_there_is_an_error_with_its_code(start: Start, repository: Path) -> None:
    address = start("asks", repository=repository, model="asks", args={"model": "nobody"}).wait_state("ready").address
    with pytest.raises(InferenceServerException, match="'nobody' is not found"):
        asked(address, "model", floats(1))


def test_questions_end_with_their_own_time_and_with_the_requests(start: Start, repository: Path) -> None:
    address = start("asks", repository=repository, model="asks", args={"model": "slow"}).wait_state("ready").address
    with pytest.raises(InferenceServerException, match="model slow did not answer in time") as caught:
        asked(address, "model in no time", floats(1))
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    with pytest.raises(InferenceServerException):
        asked(address, "model", floats(1), client_timeout=0.1)
    assert asked(address, "model", floats(2)).tolist() == [2]


def test_without_etcd_other_deployments_cannot_be_found(models: str) -> None:
    with pytest.raises(InferenceServerException, match="no etcd endpoint is configured") as caught:
        asked(models, "deployment", floats(1))
    assert caught.value.status() == "StatusCode.FAILED_PRECONDITION"


# ------------------------------------------------------------------------------------------------ other deployments


def config_for(etcd: EtcdConfig, deployment: str) -> dict[str, Any]:
    return {"etcd": etcd, "deployment": deployment, "replica_id": f"{deployment}-r1-0"}


def test_other_deployments_are_called_through_discovery(start: Start, etcd: EtcdConfig) -> None:
    front = start("asks", **config_for(etcd, "front"))
    start("scale", **config_for(etcd, "scale"), args={"factor": 10})
    address = front.wait_state("ready").address
    for how in ("deployment", "deployment once"):
        np.testing.assert_array_equal(asked_at(address, how, floats(1, 2)), floats(10, 20))


def test_deadline_and_trace_go_along(start: Start, etcd: EtcdConfig) -> None:
    front = start("asks", **config_for(etcd, "front")).wait_state("ready").address
    start("scale", **config_for(etcd, "scale"))
    inputs = [tensor("x", floats(1), "FP32"), tensor("how", words("about"), "BYTES")]
    with triton_grpc.InferenceServerClient(front) as client:
        for left_s, headers, trace in ((20, {"traceparent": TRACE}, TRACE), (None, {}, "none")):
            answer = client.infer("front", inputs, client_timeout=left_s, headers=headers)
            told = [text.decode() for text in answer.as_numpy("told")]
            assert told[6] == trace
            most = (left_s or 30) * 1000  # 30 s is what a call has that nobody limits
            assert most - 10_000 < int(told[1]) <= most


def asked_at(address: str, how: str, x: NDArray[np.float32], **more: Any) -> NDArray[np.float32]:
    inputs = [tensor("x", x, "FP32"), tensor("how", words(how), "BYTES")]
    with triton_grpc.InferenceServerClient(address) as client:
        answer = client.infer("front", inputs, **{"client_timeout": 30, **more}).as_numpy("y")
    assert answer is not None
    return answer


def test_calls_go_elsewhere_when_a_replica_is_lost(start: Start, etcd: EtcdConfig) -> None:
    front = start("asks", **config_for(etcd, "front")).wait_state("ready").address
    first = start("scale", **{**config_for(etcd, "scale"), "replica_id": "scale-r1-1"}, args={"factor": 10})
    start("scale", **config_for(etcd, "scale"), args={"factor": 10})
    for number in range(40):
        if number == 20:
            first.popen.kill()
        assert asked_at(front, "deployment", floats(number)).tolist() == [number * 10]


def test_a_deployment_that_is_not_there_is_waited_for_and_then_an_error(start: Start, etcd: EtcdConfig) -> None:
    front = start("asks", **config_for(etcd, "front")).wait_state("ready").address
    with pytest.raises(InferenceServerException, match="offers model scale"):  # long before its time is over
        asked_at(front, "deployment", floats(1), client_timeout=60)
    with pytest.raises(InferenceServerException, match="deployment scale did not answer in time"):
        asked_at(front, "deployment in no time", floats(1))
