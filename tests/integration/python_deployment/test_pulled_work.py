"""Work that a Python replica has pulled from a broker: it runs as requests over the network do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from tritonclient.grpc import service_pb2

from serving._proto import broker_pb2 as bpb
from serving.broker.puller.run import Job, Returned
from serving.errors import Code
from serving.sdk.tensors import decode_response, encode_request
from tests.integration.python_deployment.asking import until, waits_are
from tests.integration.python_deployment.conftest import Serve, Served

Open = Callable[[Served], triton.InferenceServerClient]


def job(do: str = "", inputs: dict[str, Any] | None = None, *, model: str = "it", **more: Any) -> Job:
    parameters = {"do": do} if do else None
    request = encode_request(model, inputs or {}, parameters=parameters, request_id="7")
    metadata = {"traceparent": "00-11111111111111111111111111111111-2222222222222222-01"}
    return Job(bpb.Request(infer=request.SerializeToString(), metadata=metadata), **more)


def begin(served: Served, work: Job) -> Future[bpb.Result | Returned]:
    """On the replica's own loop."""
    replica = served.replica
    assert replica._stack is not None
    entry = replica._stack.pull_entry()
    assert entry is not None
    return asyncio.run_coroutine_threadsafe(entry.runner.run(work), replica._loop)


def run(served: Served, work: Job) -> Any:
    return begin(served, work).result(60)


def outputs(data: bytes) -> dict[str, Any]:
    return decode_response(service_pb2.ModelInferResponse.FromString(data))


def test_an_answer_is_that_of_the_service(serve: Serve) -> None:
    served = serve("Anything")
    result = run(served, job("about", left_s=50.0))
    response = service_pb2.ModelInferResponse.FromString(result.infer)
    assert (response.model_name, response.id) == ("it", "7")
    assert 40 < outputs(result.infer)["left"][0] <= 50
    assert response.parameters["trace"].string_param.startswith("00-1111")
    assert served.report.load.requests == 1, "the autoscaler counts it"


@pytest.mark.parametrize(
    ("work", "code"),
    [
        (job("refuse"), Code.INVALID_ARGUMENT),
        (job("raise"), Code.INTERNAL),
        (job("state"), Code.FAILED_PRECONDITION),
        (job(model="other"), Code.NOT_FOUND),
        (Job(bpb.Request(infer=b"\xff\xff")), Code.INVALID_ARGUMENT),
        (Job(bpb.Request(http=bpb.HttpCall(path="/v1/chat/completions"))), Code.INVALID_ARGUMENT),
        (job(inputs={"x": np.zeros(100)}, max_result_bytes=50), Code.FAILED_PRECONDITION),
    ],
)
def test_errors_of_the_request_are_results(serve: Serve, work: Job, code: Code) -> None:
    result = run(serve("Anything"), work)
    assert isinstance(result, bpb.Result)
    assert result.failure.code == code


def test_a_class_that_yields_gives_parts_and_all_of_them(serve: Serve) -> None:
    parts: list[bytes] = []
    result = run(serve("Counts"), job(inputs={"n": np.array([4])}, emit=parts.append))
    assert list(result.infers.responses) == parts
    assert [int(outputs(part)["i"][0]) for part in parts] == [0, 1, 2, 3]


async def test_a_replica_without_room_gives_it_back_untouched(serve: Serve, client: Open) -> None:
    served = serve("Waits", max_requests=1)
    first = begin(served, job("wait"))
    await until(lambda: served.report.in_flight == 1)
    returned = await asyncio.to_thread(run, served, job("wait"))
    assert isinstance(returned, Returned)
    assert returned.full
    assert not returned.begun
    first.cancel()
    asked = client(served)
    await until(lambda: served.report.in_flight == 0)
    await until(lambda: waits_are(asked, [0, 1]))


async def test_a_deadline_and_a_stop_reach_the_class(serve: Serve, client: Open) -> None:
    served = serve("Waits")
    asked = client(served)
    late = await asyncio.to_thread(run, served, job("wait", left_s=0.2))
    assert late.failure.code == Code.DEADLINE_EXCEEDED
    await until(lambda: waits_are(asked, [0, 1]))
    running = begin(served, job("wait"))
    await until(lambda: waits_are(asked, [1, 1]))
    running.cancel()
    await until(lambda: waits_are(asked, [0, 2]))


async def test_what_a_draining_replica_ends_goes_back(serve: Serve, client: Open) -> None:
    served = serve("Waits")
    running = begin(served, job("wait"))
    asked = client(served)
    await until(lambda: waits_are(asked, [1, 0]))
    await asyncio.to_thread(served.replica.drain, 0.5)
    returned = await asyncio.wrap_future(running)
    assert isinstance(returned, Returned)
    assert returned.begun
    assert returned.failure.code == Code.UNAVAILABLE
    await asyncio.to_thread(served.wait_state, "drained")
