"""Requests that are wrong, or rubbish: the right code, a message that names the fault, and a replica that lives."""

from __future__ import annotations

import random
import socket

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as kserve

from serving import MeshClient
from tests.support.mesh import DIGITS

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
INFER = "/inference.GRPCInferenceService/ModelInfer"
IMAGE = np.load(DIGITS.parent / "seven.npy")


@pytest.fixture
def address(digits: MeshClient) -> str:
    return digits.endpoints("digits")[0].address


def good_request() -> kserve.ModelInferRequest:
    request = kserve.ModelInferRequest(model_name="digits")
    tensor = request.inputs.add(name="image", datatype="FP32", shape=[1, 64])
    assert tensor.name == "image"
    request.raw_input_contents.append(IMAGE.tobytes())
    return request


def ask(address: str, payload: bytes) -> bytes:
    with grpc.insecure_channel(address) as channel:
        answer: bytes = channel.unary_unary(INFER)(payload, timeout=20)
    return answer


def refused(address: str, request: kserve.ModelInferRequest) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as raised:
        ask(address, request.SerializeToString())
    return raised.value.code(), raised.value.details()


def assert_alive(digits: MeshClient, address: str) -> None:
    response = kserve.ModelInferResponse.FromString(ask(address, good_request().SerializeToString()))
    assert response.model_name == "digits"
    assert address in {endpoint.address for endpoint in digits.endpoints("digits")}


def test_named_faults(digits: MeshClient, address: str) -> None:
    cases: list[tuple[str, tuple[str, ...]]] = []
    for fault, words in FAULTS.items():
        request = good_request()
        FAULT_CHANGES[fault](request)
        code, details = refused(address, request)
        wanted = grpc.StatusCode.NOT_FOUND if fault == "unknown model" else grpc.StatusCode.INVALID_ARGUMENT
        if code is not wanted or any(word not in details for word in words):
            cases.append((fault, (code.name, details)))
    assert not cases
    assert_alive(digits, address)


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


FAULT_CHANGES = {
    "wrong name": _wrong_name,
    "wrong dtype": _wrong_dtype,
    "wrong shape": _wrong_shape,
    "too short": _short,
    "unknown model": _unknown_model,
    "too many": _too_many,
}
FAULTS = {
    "wrong name": ("picture",),
    "wrong dtype": ("image", "INT32"),
    "wrong shape": ("image",),
    "too short": ("image",),
    "unknown model": ("nosuch",),
    "too many": (),
}


def test_rubbish(digits: MeshClient, address: str) -> None:
    random.seed(20261120)
    whole = good_request().SerializeToString()
    payloads = [whole[:size] for size in range(0, len(whole), 7)]
    payloads += [random.randbytes(random.randint(1, 400)) for _ in range(300)]
    for payload in payloads:
        with pytest.raises(grpc.RpcError) as raised:
            ask(address, payload)
        assert raised.value.code() in (
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.NOT_FOUND,
            grpc.StatusCode.INTERNAL,
        )
    assert_alive(digits, address)


def test_bytes_that_are_not_http2(digits: MeshClient, address: str) -> None:
    host, port = address.rsplit(":", 1)
    random.seed(7)
    for _ in range(50):
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(random.randbytes(2000))
            try:
                while connection.recv(4096):
                    pass
            except ConnectionResetError:
                continue
    assert_alive(digits, address)


def test_what_comes_later_says_so(address: str) -> None:
    client = triton.InferenceServerClient(address)
    with pytest.raises(triton.InferenceServerException) as raised:
        client.load_model("digits")
    assert raised.value.status() == "StatusCode.UNIMPLEMENTED"
    client.close()
