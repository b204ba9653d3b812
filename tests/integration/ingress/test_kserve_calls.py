"""Deadlines, cancellation, draining, sizes and many clients at once."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as client
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb

from tests.integration.ingress.conftest import StartIngress
from tests.integration.ingress.kserve_cases import infer_request
from tests.integration.ingress.kserve_servers import Ingress, gauge, in_flight, metric
from tests.support.waiting import eventually

DATATYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    **{f"{sign.upper()}INT{bits}": np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}


def values(datatype: str, count: int) -> NDArray[np.generic]:
    if datatype == "BYTES":
        return np.array([bytes([i % 256]) * (i % 7) for i in range(count)], dtype=np.object_)
    converted: NDArray[np.generic] = (np.arange(count) % 100).astype(np.dtype(DATATYPES[datatype]))
    return converted


@pytest.mark.parametrize("datatype", DATATYPES)
@pytest.mark.parametrize("count", [0, 1, 100, 10_000])
def test_every_datatype_in_every_size(datatype: str, count: int, ingress: Ingress) -> None:
    model = "id_string" if datatype == "BYTES" else f"id_{datatype.lower()}"
    sent = values(datatype, count)
    with client.InferenceServerClient(ingress.address) as triton:
        tensor = client.InferInput("INPUT0", list(sent.shape), datatype)
        tensor.set_data_from_numpy(sent)
        answer = triton.infer(model, [tensor], request_id="r1")
    received = answer.as_numpy("OUTPUT0")
    assert received is not None
    assert np.array_equal(received.reshape(-1), sent)
    assert answer.get_response().id == "r1"


def test_bfloat16_bits_survive(ingress: Ingress) -> None:
    bits = np.arange(1000, dtype=np.uint16).tobytes()
    answer = ingress.stub.ModelInfer(infer_request("id_bf16", [("INPUT0", "BF16", (1000,))], (bits,)), timeout=60)
    assert answer.raw_output_contents[0] == bits
    assert answer.outputs[0].datatype == "BF16"


def test_large_tensors(ingress: Ingress) -> None:
    count = 16 << 20
    sent = np.random.default_rng(1).integers(0, 255, count * 4, dtype=np.uint8).tobytes()
    answer = ingress.stub.ModelInfer(infer_request("id_fp32", [("INPUT0", "FP32", (count,))], (sent,)), timeout=120)
    assert answer.raw_output_contents[0] == sent


def test_a_deadline_ends_the_call_and_the_work(ingress: Ingress, gate: Path) -> None:
    request = infer_request("gated")
    with pytest.raises(grpc.RpcError) as raised:
        ingress.stub.ModelInfer(request, timeout=0.1)
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    gate.touch()
    assert ingress.stub.ModelInfer(request, timeout=60).model_name == "gated"
    eventually(lambda: in_flight(ingress) == 0, timeout_s=90, what="no call to be left")


def test_cancelled_calls_leave_the_queue(ingress: Ingress, gate: Path) -> None:
    """Of ten queued calls nine are cancelled: the work of the nine is not done."""
    count = 'nv_inference_count{model="gated"'
    before = metric(ingress, count)
    calls = [ingress.stub.ModelInfer.future(infer_request("gated"), timeout=120) for _ in range(10)]
    eventually(lambda: in_flight(ingress) == 10, timeout_s=90, what="ten calls to be accepted")
    for call in calls[1:]:
        call.cancel()
    eventually(lambda: gauge(ingress, "mesh_rpc_calls") == 1, timeout_s=90, what="the server to know of it")
    # The connection's event loop counts first and cancels then: what it answers next, it answers after that.
    assert ingress.stub.ServerLive(pb.ServerLiveRequest(), timeout=60).live
    gate.touch()
    assert calls[0].result().model_name == "gated"
    eventually(lambda: in_flight(ingress) == 0, timeout_s=90, what="no call to be left")
    assert metric(ingress, count) - before < 5


def test_draining(start_ingress: StartIngress, gate: Path) -> None:
    server = start_ingress("--model=gated", "--model=id_fp32")
    assert server.stub.ServerReady(pb.ServerReadyRequest(), timeout=60).ready
    running = server.stub.ModelInfer.future(infer_request("gated"), timeout=120)
    eventually(lambda: in_flight(server) == 1, timeout_s=90, what="the call to be accepted")
    server.drain()
    with pytest.raises(grpc.RpcError) as raised:
        server.stub.ModelInfer(infer_request(), timeout=60)
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "draining" in str(raised.value.details())
    gate.touch()
    assert running.result().model_name == "gated"
    assert server.stub.ServerLive(pb.ServerLiveRequest(), timeout=60).live
    assert server.stub.ModelReady(pb.ModelReadyRequest(name="id_fp32"), timeout=60).ready


def refuses_connections(server: Ingress) -> bool:
    host, port = server.address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # the listener was closed in this moment: the next look is sure
        return False
    return False


def test_stop_finishes_what_runs(start_ingress: StartIngress, gate: Path) -> None:
    server = start_ingress("--model=gated")
    calls = [server.stub.ModelInfer.future(infer_request("gated"), timeout=120) for _ in range(3)]
    eventually(lambda: in_flight(server) == 3, timeout_s=90, what="the calls to be accepted")
    results: list[str] = []
    waiting = threading.Thread(target=lambda: results.extend(call.result().model_name for call in calls))
    waiting.start()
    server.process.terminate()
    eventually(lambda: refuses_connections(server), timeout_s=60, what="the stop to begin")
    assert results == []
    assert server.alive(), "it waits for what runs"
    gate.touch()
    waiting.join(60)
    assert results == ["gated"] * 3
    assert server.process.wait(60) == 0


def test_many_clients(ingress: Ingress) -> None:
    def one_client(seed: int) -> int:
        random = np.random.default_rng(seed)
        with grpc.insecure_channel(ingress.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            call = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer",
                request_serializer=pb.ModelInferRequest.SerializeToString,
                response_deserializer=pb.ModelInferResponse.FromString,
            )
            good = 0
            for number in range(60):
                count = int(random.integers(0, 3000))
                raw = random.bytes(count * 4)
                request = infer_request(
                    "id_fp32", [("INPUT0", "FP32", (count,))], (raw,), request_id=f"{seed}-{number}"
                )
                answer = call(request, timeout=60)
                good += answer.raw_output_contents[0] == raw and answer.id == request.id
            return good

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(one_client, range(8))) == 480


def test_a_models_own_error_comes_without_its_stack(ingress: Ingress) -> None:
    def identity() -> str:
        with pytest.raises(grpc.RpcError) as raised:
            ingress.stub.ModelInfer(infer_request("failing"), timeout=60)
        assert raised.value.code() == grpc.StatusCode.INTERNAL
        words, _, logged_as = str(raised.value.details()).partition(" (logged as ")
        assert "the model's own words" in words
        assert "model.py" not in words
        return logged_as.rstrip(")")

    assert identity()
    # Of those that fail within a tenth of a second of each other one is logged.
    eventually(lambda: identity() in ingress.log.read_text(), timeout_s=90, what="the model's words in the log")


def test_metrics(ingress: Ingress) -> None:
    calls = 'mesh_ingress_calls_total{code="%s",method="ModelInfer"}'
    good, bad = metric(ingress, calls % "OK"), metric(ingress, calls % "NOT_FOUND")
    ingress.stub.ModelInfer(infer_request(), timeout=60)
    with pytest.raises(grpc.RpcError):
        ingress.stub.ModelInfer(infer_request("nope"), timeout=60)
    assert metric(ingress, calls % "OK") - good == 1
    assert metric(ingress, calls % "NOT_FOUND") - bad == 1
    assert metric(ingress, "mesh_ingress_call_seconds_count") > 0
    assert metric(ingress, "mesh_rpc_received_bytes_total") > 0
    assert metric(ingress, "nv_inference_request_success") > 0


def test_a_bad_model_is_named_and_the_others_serve(start_ingress: StartIngress) -> None:
    server = start_ingress("--model=id_fp32", "--model=absent")
    assert server.failed.keys() == {"absent"}
    assert "absent" in server.failed["absent"]
    assert server.stub.ModelInfer(infer_request(), timeout=60).model_name == "id_fp32"
    assert not server.stub.ServerReady(pb.ServerReadyRequest(), timeout=60).ready
