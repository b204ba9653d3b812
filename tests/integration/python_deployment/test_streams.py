"""ModelStreamInfer of Python deployments, by hand: tritonclient for asyncio cannot ask for an empty last answer."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from tests.integration.python_deployment.asking import until
from tests.integration.python_deployment.classes import Counts
from tests.integration.python_deployment.conftest import Serve, Served

METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"


def request_with(name: str, values: NDArray[Any], datatype: str, request_id: str = "") -> Any:
    message = service_pb2.ModelInferRequest(model_name="it", id=request_id)
    message.inputs.add(name=name, datatype=datatype, shape=values.shape)
    message.raw_input_contents.append(values.tobytes())
    return message


def counting(n: int, request_id: str = "", *, fail_at: int = -1, empty_final: bool = True) -> Any:
    message = request_with("n", np.array([n], dtype=np.int64), "INT64", request_id)
    message.parameters["fail_at"].int64_param = fail_at
    message.parameters["triton_enable_empty_final_response"].bool_param = empty_final
    return message


async def stream(served: Served, *requests: Any, metadata: tuple[tuple[str, str], ...] = ()) -> list[Any]:
    """All answers; raises what ends the stream."""
    async with grpc.aio.insecure_channel(served.address) as channel:
        method = channel.stream_stream(METHOD, None, None)
        call = method(iter([request.SerializeToString() for request in requests]), metadata=metadata)
        return [service_pb2.ModelStreamInferResponse.FromString(data) async for data in call]


def is_final(item: Any) -> bool:
    return bool(item.infer_response.parameters["triton_final_response"].bool_param)


def values(item: Any) -> list[int]:
    (raw,) = item.infer_response.raw_output_contents
    found: list[int] = np.frombuffer(raw, np.int64).tolist()
    return found


@pytest.mark.parametrize("kind", ["Counts", "CountsOnThreads"])
async def test_a_class_that_yields_sends_each_answer(serve: Serve, kind: str) -> None:
    found = await stream(serve(kind), counting(3, "a"))
    assert [values(item) for item in found[:3]] == [[0], [1], [2]]
    assert [is_final(item) for item in found] == [False, False, False, True]
    assert (found[3].infer_response.id, len(found[3].infer_response.outputs)) == ("a", 0)


async def test_no_empty_end_unless_it_is_asked_for(serve: Serve) -> None:
    assert len(await stream(serve("Counts"), counting(2, empty_final=False))) == 2


async def test_requests_of_a_stream_are_answered_beside_each_other(serve: Serve) -> None:
    found = await stream(serve("Counts"), counting(50, "a"), counting(50, "b"))
    for name in "ab":
        mine = [item for item in found if item.infer_response.id == name]
        assert [values(item)[0] for item in mine[:-1]] == list(range(50))
        assert is_final(mine[-1])


async def test_single_answers_keep_their_order(serve: Serve) -> None:
    requests = [request_with("x", np.array([i], dtype=np.float32), "FP32", str(i)) for i in range(20)]
    found = await stream(serve("Scale"), *requests)
    assert [item.infer_response.id for item in found] == [str(i) for i in range(20)]
    assert all(is_final(item) for item in found)


async def test_errors_are_answered_in_the_stream(serve: Serve) -> None:
    found = await stream(serve("Counts"), counting(3, "a", fail_at=1), counting(1, "b"))
    (error,) = [item for item in found if item.error_message]
    assert "infer failed: ValueError: enough" in error.error_message
    assert (error.infer_response.id, is_final(error)) == ("a", True)
    assert sum(item.infer_response.id == "b" for item in found) == 2


async def test_the_first_error_ends_a_stream_that_wants_it_so(serve: Serve) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="ValueError: enough") as caught:
        await stream(serve("Counts"), counting(3, fail_at=1), metadata=(("triton_grpc_error", "true"),))
    assert caught.value.code() is grpc.StatusCode.INTERNAL


async def test_a_single_call_to_a_class_that_yields_is_refused(serve: Serve) -> None:
    async with grpc.aio.insecure_channel(serve("Counts").address) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="doesn't support models with decoupled") as caught:
            await channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", None, None)(
                counting(1).SerializeToString()
            )
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_client_that_leaves_ends_the_generator(serve: Serve) -> None:
    served = serve("Counts")
    closed = Counts.closed
    async with grpc.aio.insecure_channel(served.address) as channel:
        call = channel.stream_stream(METHOD, None, None)()
        await call.write(counting(10**9).SerializeToString())
        await call.read()
        call.cancel()
    await until(lambda: Counts.closed > closed)
    await until(lambda: served.report.in_flight == 0)


async def test_a_client_that_does_not_read_holds_the_generator_up(serve: Serve) -> None:
    served = serve("Counts")
    Counts.yielded = 0
    async with grpc.aio.insecure_channel(served.address) as channel:
        call = channel.stream_stream(METHOD, None, None)()
        await call.write(counting(10**9).SerializeToString())
        await until(lambda: Counts.yielded > 0)
        last = -1
        while last != Counts.yielded:  # until it stands still
            last = Counts.yielded
            await asyncio.sleep(0.5)
        assert 0 < last < 10**6
        call.cancel()
    await until(lambda: served.report.in_flight == 0)


async def test_a_client_that_does_not_read_has_no_more_requests_run(serve: Serve) -> None:
    served = serve("Large")
    message = service_pb2.ModelInferRequest(model_name="it")
    message.parameters["mib"].int64_param = 16
    options = [("grpc.max_receive_message_length", -1), ("grpc.http2.bdp_probe", 0)]  # a small window
    async with grpc.aio.insecure_channel(served.address, options=options) as channel:
        call = channel.stream_stream(METHOD, None, None)()
        for count in range(1, 5):
            await call.write(message.SerializeToString())
            await until(lambda count=count: served.report.load.requests == count)
        for _ in range(8):
            await call.write(message.SerializeToString())
        await asyncio.sleep(0.5)  # they would have run by then
        assert served.report.load.requests <= 7, "no more are read while 64 MiB of answers wait"
        for _ in range(12):
            assert len(await call.read()) > 16 << 20
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK


async def test_a_drain_lets_a_stream_finish_and_then_ends_it(serve: Serve) -> None:
    served = serve("Waits")
    message = service_pb2.ModelInferRequest(model_name="it")
    message.parameters["do"].string_param = "block"
    message.parameters["s"].string_param = "2"
    async with grpc.aio.insecure_channel(served.address) as channel:
        call = channel.stream_stream(METHOD, None, None)()
        await call.write(message.SerializeToString())
        await until(lambda: served.report.in_flight == 1)
        served.replica.drain(20)
        answer = service_pb2.ModelStreamInferResponse.FromString(await call.read())
        assert (answer.error_message, len(answer.infer_response.outputs)) == ("", 1)
        assert await asyncio.wait_for(call.code(), 120) is grpc.StatusCode.UNAVAILABLE
        assert "this replica is draining" in await call.details()
    await asyncio.to_thread(served.wait_state, "drained")
