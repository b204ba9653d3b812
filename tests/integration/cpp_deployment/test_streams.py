"""Deployments that answer any number of times."""

from __future__ import annotations

import json
import queue
import urllib.request
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.integration.cpp_deployment.conftest import Start
from tests.integration.cpp_deployment.harness import tensor
from tests.support.waiting import eventually


@pytest.fixture
def address(start: Start) -> str:
    return start("streams", model="streams").wait_state("ready").address


def stream(address: str, *counts: int, answers: int) -> list[Any]:
    """What comes back: numbers, or errors."""
    came: queue.Queue[Any] = queue.Queue()
    with triton_grpc.InferenceServerClient(address) as client:
        client.start_stream(lambda result, error: came.put(error or int(result.as_numpy("i")[0])))
        for count in counts:
            client.async_stream_infer("streams", [tensor("count", np.array([count]), "INT64")])
        found = [came.get(timeout=30) for _ in range(answers)]
        client.stop_stream()
    return found


def test_each_answer_is_a_message(address: str) -> None:
    assert stream(address, 5, answers=5) == [0, 1, 2, 3, 4]


def test_requests_of_one_stream_run_at_a_time(address: str) -> None:
    assert sorted(stream(address, 3, 2, 4, answers=9)) == [0, 0, 0, 1, 1, 1, 2, 2, 3]


def test_an_error_ends_its_request_and_not_the_stream(address: str) -> None:
    found = stream(address, 13, answers=14)

    assert found[:13] == list(range(13))
    assert "thirteen is one too many" in str(found[13])


def test_one_answer_cannot_be_asked_for(address: str) -> None:
    with triton_grpc.InferenceServerClient(address) as client, pytest.raises(InferenceServerException) as caught:
        client.infer("streams", [tensor("count", np.array([1]), "INT64")])
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


def test_server_sent_events(address: str) -> None:
    request = urllib.request.Request(
        f"http://{address}/v2/models/streams/generate_stream", data=json.dumps({"count": 3}).encode()
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        events = [line for line in answer.read().decode().splitlines() if line.startswith("data: ")]
    assert [json.loads(event[6:])["i"] for event in events] == [0, 1, 2]


def test_streams_and_requests_are_counted_apart(start: Start) -> None:
    replica = start("streams", model="streams")
    address = replica.wait_state("ready").address
    stream(address, 2, 1, answers=3)
    stream(address, 13, answers=14)  # an error inside the stream ends its request only
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        ended = stub.ModelStreamInfer(iter([request_of(13, 1)]), metadata=[("triton_grpc_error", "true")])
        with pytest.raises(grpc.RpcError, match="thirteen is one too many"):
            list(ended)
        broken = stub.ModelStreamInfer(iter([request_of(17, 1)]), metadata=[("triton_grpc_error", "true")])
        with pytest.raises(grpc.RpcError, match="seventeen breaks it"):
            list(broken)
    replica.terminate()
    assert replica.wait() == 0
    load = replica.reports()[-1].load
    assert (load.streams, load.failed_streams, load.requests, load.failed) == (4, 1, 0, 0), "one is the server's fault"


def test_a_stream_that_a_drain_ends_is_nobodys_fault(start: Start) -> None:
    replica = start("streams", model="streams")
    asked: queue.Queue[service_pb2.ModelInferRequest | None] = queue.Queue()
    with grpc.insecure_channel(replica.wait_state("ready").address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answers = stub.ModelStreamInfer(iter(asked.get, None))
        asked.put(request_of(1, 1))
        next(answers)
        replica.terminate()
        with pytest.raises(grpc.RpcError, match="draining") as caught:
            list(answers)  # the rest of the first request's, then the end
        asked.put(None)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert replica.wait() == 0
    load = replica.reports()[-1].load
    assert (load.streams, load.failed_streams) == (0, 0)


def request_of(count: int, bytes_each: int) -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name="streams")
    for name, value in (("count", count), ("bytes", bytes_each)):
        request.inputs.add(name=name, datatype="INT64", shape=[1])
        request.raw_input_contents.append(np.array([value]).tobytes())
    return request


def sent_so_far(address: str) -> int:
    came: queue.Queue[Any] = queue.Queue()
    with triton_grpc.InferenceServerClient(address) as client:
        client.start_stream(lambda result, error: came.put(error or int(result.as_numpy("sent")[0])))
        client.async_stream_infer("streams", [tensor("count", np.array([-1]), "INT64")])
        number = came.get(timeout=30)
        client.stop_stream()
    assert isinstance(number, int), number
    return number


def test_a_client_that_does_not_read_holds_its_answers_back(address: str) -> None:
    total, size = 400, 1 << 20
    window = [("grpc.http2.bdp_probe", 0), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(address, options=window) as channel:
        answers = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(iter([request_of(total, size)]))
        next(answers)
        counts: list[int] = []

        def still() -> bool:
            counts.append(sent_so_far(address))
            return len(counts) > 5 and len(set(counts[-5:])) == 1

        eventually(still, timeout_s=30, what="nothing more is sent")
        assert counts[-1] < total / 2
        rest = sum(1 for _ in answers)
    assert rest + 1 == total


def test_a_stream_that_is_cancelled_ends_the_users_code(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        answers = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(
            iter([request_of(1_000_000, 1000)])
        )
        next(answers)
        answers.cancel()
    last = [-1]

    def ended() -> bool:
        before, last[0] = last[0], sent_so_far(address)
        return before == last[0]

    eventually(ended, timeout_s=30, what="the code sends no more")
    assert last[0] < 1_000_000
