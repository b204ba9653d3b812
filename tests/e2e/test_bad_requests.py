"""Requests that are wrong, or rubbish: the right code, a message that names the fault, and a replica that lives."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as kserve

from serving import Application, MeshClient, Replicas, Resources, TritonDeployment
from tests.support.mesh import DIGITS
from tests.support.waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
INFER = "/inference.GRPCInferenceService/ModelInfer"
LIMIT_BYTES = 4096
IMAGE = np.load(DIGITS.parent / "seven.npy")


@pytest.fixture
def address(digits: MeshClient) -> Iterator[str]:
    """Of a replica that must be the same process after the test, never restarted by it, and answer right."""
    before = eventually(lambda: len(found := running(digits)) == 2 and found, timeout_s=90, what="two replicas")
    address = sorted(before.values())[0][2]
    yield address
    answer = kserve.ModelInferResponse.FromString(ask(address, good_request().SerializeToString()))
    assert np.frombuffer(answer.raw_output_contents[0], np.float32).argmax() == 7
    eventually(lambda: running(digits) == before, timeout_s=90, what=f"{before}, as before")


def running(digits: MeshClient) -> dict[str, tuple[int, int, str]]:
    """Process, restarts and address of each replica that is in discovery."""
    [deployment] = digits.status("digits").deployments
    restarts = {replica.id: replica.restarts for replica in deployment.replicas}
    return {found.id: (found.pid, restarts.get(found.id, -1), found.address) for found in digits.endpoints("digits")}


def good_request() -> kserve.ModelInferRequest:
    request = kserve.ModelInferRequest(model_name="digits")
    tensor = request.inputs.add(name="image", datatype="FP32", shape=[1, 64])
    assert tensor.name == "image"
    request.raw_input_contents.append(IMAGE.tobytes())
    return request


def ask(address: str, payload: bytes) -> bytes:
    with grpc.insecure_channel(address) as channel:
        answer: bytes = channel.unary_unary(INFER)(payload, timeout=60)
    return answer


def refused(address: str, request: kserve.ModelInferRequest) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as raised:
        ask(address, request.SerializeToString())
    return raised.value.code(), raised.value.details()


def _wrong_name(request: kserve.ModelInferRequest) -> None:
    request.inputs[0].name = "picture"


def _wrong_dtype(request: kserve.ModelInferRequest) -> None:
    request.inputs[0].datatype = "INT32"


def _wrong_shape(request: kserve.ModelInferRequest) -> None:
    del request.inputs[0].shape[:]
    request.inputs[0].shape.extend([1, 8, 8])


def _short(request: kserve.ModelInferRequest) -> None:
    request.raw_input_contents[0] = request.raw_input_contents[0][:-4]


def _unknown_model(request: kserve.ModelInferRequest) -> None:
    request.model_name = "nosuch"


def _too_many(request: kserve.ModelInferRequest) -> None:
    request.raw_input_contents.append(b"1234")


TRITON = "[request id: <id_unknown>] "  # how it begins what it says of a request without an id
BAD = grpc.StatusCode.INVALID_ARGUMENT
FAULTS = {
    "wrong name": (_wrong_name, BAD, "unexpected inference input 'picture' for model 'digits'"),
    "wrong dtype": (
        _wrong_dtype,
        BAD,
        TRITON + "inference input 'image' data-type is 'INT32', but model 'digits' expects 'FP32'",
    ),
    "wrong shape": (
        _wrong_shape,
        BAD,
        TRITON + "unexpected shape for input 'image' for model 'digits'. Expected [-1,64], got [1,8,8].",
    ),
    "too short": (
        _short,
        BAD,
        TRITON + "input byte size mismatch for input 'image' for model 'digits'. Expected 256, got 252",
    ),
    "unknown model": (
        _unknown_model,
        grpc.StatusCode.NOT_FOUND,
        "Request for unknown model: 'nosuch' is not found",
    ),
    "too many": (_too_many, BAD, "expected 1 raw_input_contents for the inputs of model 'digits', got 2"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_named_faults(address: str, fault: str) -> None:
    change, wanted, message = FAULTS[fault]
    request = good_request()
    change(request)
    code, details = refused(address, request)
    assert code is wanted, details
    assert details.startswith(message)  # after a wrong shape, Triton adds a hint about batches


def test_rubbish(address: str) -> None:
    """What is no message is told apart from a message that lacks something: protobuf's own reader says which it is."""
    chance = random.Random(20261120)
    whole = good_request().SerializeToString()
    payloads = [whole[:size] for size in range(0, len(whole), 7)]
    payloads += [chance.randbytes(chance.randint(1, 400)) for _ in range(300)]
    kinds = {"no message": 0, "an incomplete one": 0}
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(INFER)
        for payload in payloads:
            with pytest.raises(grpc.RpcError) as raised:
                call(payload, timeout=60)
            code, details = raised.value.code(), raised.value.details()
            try:
                kserve.ModelInferRequest.FromString(payload)
            except DecodeError:
                kinds["no message"] += 1
                assert code is grpc.StatusCode.INTERNAL, (payload, details)
                assert details.startswith("Unable to parse request: "), payload
                continue
            kinds["an incomplete one"] += 1
            assert (code, details) == (grpc.StatusCode.NOT_FOUND, "Request for unknown model: '' is not found"), payload
    assert all(kinds.values()), kinds


def test_cut_between_fields(address: str) -> None:
    """Whole messages that lack fields: Triton's own words for what is missing."""
    without_data, without_input = good_request(), good_request()
    del without_data.raw_input_contents[:]
    del without_input.raw_input_contents[:], without_input.inputs[:]
    assert refused(address, without_data) == (
        BAD,
        "unable to find data for input tensor 'image' for model 'digits' in request.",
    )
    code, details = refused(address, without_input)
    assert code is BAD
    assert "missing required input(s) ['image']" in details


@pytest.fixture
def limited(client: MeshClient) -> Iterator[str]:
    """The address of a replica that takes messages up to 4 KiB."""
    deployment = TritonDeployment(
        name="main",
        repository=DIGITS.parent / "models",
        resources=Resources(cpus=0.1),
        replicas=Replicas(1),
        max_message_bytes=LIMIT_BYTES,
    )
    try:
        client.deploy(Application(name="limited", deployments=[deployment]), wait=True, timeout_s=150)
        yield eventually(lambda: client.endpoints("limited"), timeout_s=90, what="its endpoint")[0].address
    finally:
        client.delete("limited", wait=True)


def test_a_message_above_the_limit(client: MeshClient, limited: str) -> None:
    def pids() -> list[int]:
        return [endpoint.pid for endpoint in client.endpoints("limited")]

    before = eventually(pids, timeout_s=90, what="its endpoint")
    request = good_request()
    request.id = "x" * (LIMIT_BYTES - request.ByteSize() - 3)  # its tag and length take 3 bytes
    assert request.ByteSize() == LIMIT_BYTES
    assert kserve.ModelInferResponse.FromString(ask(limited, request.SerializeToString())).id == request.id
    request.id += "x"
    assert refused(limited, request) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"received message of {LIMIT_BYTES + 1} bytes is larger than the limit of {LIMIT_BYTES} bytes",
    )
    request.id = ""
    ask(limited, request.SerializeToString())
    eventually(lambda: pids() == before, timeout_s=90, what="the process of before")
    assert client.status("limited").deployments[0].replicas[0].restarts == 0


def test_bytes_that_are_not_http2(address: str) -> None:
    host, port = address.rsplit(":", 1)
    random.seed(7)
    for _ in range(50):
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(random.randbytes(2000))
            try:
                while connection.recv(4096):
                    pass
            except ConnectionResetError:
                continue


def test_what_the_specification_does_not_allow_says_so(address: str) -> None:
    client = triton.InferenceServerClient(address)
    with pytest.raises(triton.InferenceServerException, match="model_control") as raised:
        client.load_model("digits")
    assert raised.value.status() == "StatusCode.UNAVAILABLE"
    client.close()
