"""ModelInfer and what clients ask about a Python deployment."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Callable

import grpc
import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from tests.integration.python_deployment.asking import ask, floats, inputs, until, waits_are
from tests.integration.python_deployment.classes import Waits
from tests.integration.python_deployment.conftest import Serve, Served

Open = Callable[[Served], triton.InferenceServerClient]


async def test_arrays_go_in_and_come_out(serve: Serve, client: Open) -> None:
    served = serve("Scale", factor=3)
    answer = await client(served).infer("it", inputs(x=floats(1, 2)), request_id="r1")
    assert answer.as_numpy("scaled").tolist() == [3, 6]
    assert (answer.get_response().id, answer.get_response().model_version) == ("r1", "1")
    assert served.report.in_flight == 0


async def test_every_type_comes_back_as_it_was(serve: Serve, client: Open) -> None:
    asked = client(serve("Anything"))
    for name in ("bool", "int8", "uint16", "int64", "float16", "float64"):
        values = np.array([[1, 0], [2, 3]]).astype(name)
        answer = await asked.infer("it", inputs(x=values))
        np.testing.assert_array_equal(answer.as_numpy("x"), values)
        assert answer.as_numpy("x").dtype == values.dtype
    texts = np.array([b"a", b"", b"\xff\x00"], dtype=object)
    assert (await asked.infer("it", inputs(x=texts))).as_numpy("x").tolist() == texts.tolist()


async def raw_infer(address: str, message: bytes) -> bytes:
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", None, None)
        return bytes(await call(message, timeout=30))


async def test_typed_contents_are_read_and_checked(serve: Serve) -> None:
    served = serve("Anything")
    message = service_pb2.ModelInferRequest(model_name="it")
    tensor = message.inputs.add(name="x", datatype="INT8", shape=[3])
    tensor.contents.int_contents.extend([1, -128, 127])
    answer = service_pb2.ModelInferResponse.FromString(await raw_infer(served.address, message.SerializeToString()))
    assert np.frombuffer(answer.raw_output_contents[0], np.int8).tolist() == [1, -128, 127]
    tensor.contents.int_contents[0] = 300
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await raw_infer(served.address, message.SerializeToString())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "input x has values that do not fit into INT8" in str(caught.value.details())


@pytest.mark.parametrize(("shape", "raw"), [([1] * 70, b"1234"), ([1 << 62, 0], b"")])
async def test_shapes_that_no_array_can_have_are_the_senders_fault(serve: Serve, shape: list[int], raw: bytes) -> None:
    message = service_pb2.ModelInferRequest(model_name="it", raw_input_contents=[raw])
    message.inputs.add(name="x", datatype="FP32", shape=shape)
    with pytest.raises(grpc.aio.AioRpcError, match="input x cannot have its shape of") as caught:
        await raw_infer(serve("Anything").address, message.SerializeToString())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("do", ["long", "surrogate"])
async def test_any_text_of_an_error_fits_into_a_status(serve: Serve, client: Open, do: str) -> None:
    asked = client(serve("Anything"))
    with pytest.raises(InferenceServerException) as caught:
        await ask(asked, do)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert caught.value.message().startswith("bad: ")


@pytest.mark.parametrize(
    ("do", "status", "words"),
    [
        ("raise", "INTERNAL", "infer failed: ValueError: a bad day (logged as "),
        ("exit", "INTERNAL", "SystemExit: 3"),
        ("stop", "INTERNAL", "StopIteration"),
        ("refuse", "INVALID_ARGUMENT", "not this one"),
        ("state", "FAILED_PRECONDITION", "not now"),
        ("nothing", "INTERNAL", "infer answered a NoneType; expected is a mapping"),
        ("objects", "INTERNAL", "output x, element 0: expects a text or bytes"),
    ],
)
async def test_errors_of_user_code_reach_the_client(
    serve: Serve, client: Open, do: str, status: str, words: str
) -> None:
    asked = client(serve("Anything"))
    with pytest.raises(InferenceServerException) as caught:
        await ask(asked, do)
    assert caught.value.status() == f"StatusCode.{status}"
    assert words in caught.value.message()
    assert (await ask(asked, "seen")).as_numpy("seen").size == 0, "it serves on"


@pytest.mark.parametrize(
    ("arrays", "status", "words"),
    [
        ({}, "INVALID_ARGUMENT", "input 'x' of model 'it' is missing"),
        ({"z": floats(1)}, "INVALID_ARGUMENT", "unexpected inference input 'z' for model 'it'"),
        ({"x": np.array([1])}, "INVALID_ARGUMENT", "expects FP32, got INT64"),
        ({"x": floats(1).reshape(1, 1)}, "INVALID_ARGUMENT", "expects the shape [-1], got [1, 1]"),
        ({"x": floats(1), "y": floats(1).reshape(1, 1)}, "INVALID_ARGUMENT", "expects the shape [2, -1]"),
    ],
)
async def test_what_is_declared_is_checked(
    serve: Serve, client: Open, arrays: dict[str, np.ndarray], status: str, words: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        await client(serve("Scale")).infer("it", inputs(**arrays))
    assert caught.value.status() == f"StatusCode.{status}"
    assert words in caught.value.message()


async def test_wrong_requests_are_named(serve: Serve, client: Open) -> None:
    served = serve("Scale", model="scale")
    asked = client(served)
    for model, version in (("it", ""), ("scale", "2")):
        with pytest.raises(InferenceServerException, match="Request for unknown model") as caught:
            await asked.infer(model, inputs(x=floats(1)), model_version=version)
        assert caught.value.status() == "StatusCode.NOT_FOUND"
    with pytest.raises(InferenceServerException, match="unexpected inference output 'other'"):
        await asked.infer("scale", inputs(x=floats(1)), outputs=[triton.InferRequestedOutput("other")])
    with pytest.raises(grpc.aio.AioRpcError) as rubbish:
        await raw_infer(served.address, b"\xff\xff\xff")
    assert rubbish.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(InferenceServerException, match="has no SystemSharedMemoryStatus") as missing:
        await asked.get_system_shared_memory_status()
    assert missing.value.status() == "StatusCode.UNIMPLEMENTED"


async def test_requests_know_deadline_trace_and_id(serve: Serve, client: Open) -> None:
    asked = client(serve("Anything"))
    trace = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    answer = await ask(asked, "about", client_timeout=30.0, headers={"traceparent": trace}, request_id="r7")
    assert 5 < answer.as_numpy("left")[0] < 31  # gRPC sends time limits rounded up to a tenth of a second
    parameters = answer.get_response().parameters
    assert (parameters["trace"].string_param, parameters["id"].string_param) == (trace, "r7")
    assert (await ask(asked, "about")).as_numpy("left")[0] == -1


async def test_a_deadline_or_a_client_that_leaves_cancels_the_work(serve: Serve, client: Open) -> None:
    served = serve("Waits")
    asked = client(served)
    late = 0

    async def too_late() -> bool:
        nonlocal late
        with pytest.raises(InferenceServerException) as caught:
            await ask(asked, client_timeout=1)
        assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
        await until(lambda: served.report.in_flight == 0)
        late = (await ask(asked, "count")).as_numpy("counts")[1]
        return bool(late and served.report.load.failed)  # unless the machine stood still while it was on its way

    await until(too_late, timeout_s=60)
    failed = served.report.load.failed
    leaving = asyncio.ensure_future(ask(asked))
    await until(lambda: waits_are(asked, [1, late]))
    leaving.cancel()
    await until(lambda: waits_are(asked, [0, late + 1]))
    await until(lambda: served.report.in_flight == 0)
    assert served.report.load.failed == failed, "what comes too late is the server's fault, what is taken back is not"


async def test_blocking_code_hears_of_it(serve: Serve, client: Open) -> None:
    served = serve("Anything", threads=2)
    asked = client(served)
    with pytest.raises(InferenceServerException):
        await ask(asked, "wait", client_timeout=5)

    async def seen() -> bool:
        return bool((await ask(asked, "seen")).as_numpy("seen").tolist() == [b"cancelled"])

    await until(seen)


async def test_a_full_replica_says_so(serve: Serve, client: Open) -> None:
    served = serve("Waits", max_requests=2)
    asked = client(served)
    waiting = [asyncio.ensure_future(ask(asked)) for _ in range(2)]
    await until(lambda: served.report.in_flight == 2)
    with pytest.raises(InferenceServerException, match=r"this replica is full: 2 requests run or wait") as caught:
        await ask(asked, "count")
    assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
    waiting[0].cancel()
    await until(lambda: served.report.in_flight == 1)
    await ask(asked, "open")
    await waiting[1]


async def test_a_blocked_loop_stops_neither_health_nor_metadata(serve: Serve, client: Open) -> None:
    served = serve("Waits")
    asked = client(served)
    Waits.stands.clear()
    Waits.goes_on.clear()
    blocking = asyncio.ensure_future(ask(asked, "stand still"))
    try:
        await until(Waits.stands.is_set)
        assert await asked.is_server_live(client_timeout=60.0)
        async with grpc.aio.insecure_channel(served.address) as channel:
            check = channel.unary_unary("/grpc.health.v1.Health/Check", None, None)
            assert await check(b"", timeout=60) == b"\x08\x01"
        assert not blocking.done()
    finally:
        Waits.goes_on.set()
    await blocking


async def test_it_says_what_it_is(serve: Serve, client: Open) -> None:
    served = serve("Scale")
    asked = client(served)
    assert await asked.is_server_ready()
    assert await asked.is_model_ready("it")
    assert not await asked.is_model_ready("other")
    metadata = await asked.get_model_metadata("it")
    assert [(item.name, item.datatype, list(item.shape)) for item in metadata.inputs] == [
        ("x", "FP32", [-1]),
        ("y", "FP32", [2, -1]),
    ]
    assert [item.name for item in metadata.outputs] == ["scaled"]
    config = (await asked.get_model_config("it")).config
    assert (config.name, config.input[1].optional, config.model_transaction_policy.decoupled) == ("it", True, False)
    await asked.infer("it", inputs(x=floats(1)))
    with pytest.raises(InferenceServerException):
        await asked.infer("it", [])
    (row,) = (await asked.get_inference_statistics("it")).model_stats
    assert (row.inference_count, row.inference_stats.success.count) == (1, 1)
    assert row.inference_stats.success.ns > 0
    load = served.report.load
    assert (load.requests, load.within[-1], len(load.bounds_s)) == (1, 1, len(load.within))
    assert load.cpu_s > 0
    page = (await asyncio.to_thread(urllib.request.urlopen, f"http://{served.report.metrics_address}/metrics")).read()
    assert b'mesh_ingress_calls_total{code="OK",method="ModelInfer"} 1.0' in page
    assert b'mesh_ingress_calls_total{code="INVALID_ARGUMENT",method="ModelInfer"} 1.0' in page
    assert b"mesh_ingress_in_flight 0.0" in page
