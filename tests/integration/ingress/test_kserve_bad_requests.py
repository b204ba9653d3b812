"""Thousands of bad requests, then one good one must succeed."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from tests.integration.ingress.kserve_cases import SIXTEEN, elements, infer_request, typed_request
from tests.integration.ingress.kserve_servers import Ingress

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
# What a client may be told about its own request; INTERNAL only for bytes that are no message.
CLIENT_CODES = {"INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED"}

MODELS = st.sampled_from(["id_fp32", "id_string", "id_int8", "id_bool", "fixed", "two", "labels", "seq", "nope", ""])
NAMES = st.one_of(st.sampled_from(["INPUT0", "A", "B", "OUTPUT0", "OA", ""]), st.text(max_size=20))
TYPES = st.sampled_from(["FP32", "BYTES", "INT8", "BOOL", "INT32", "FP16", "BF16", "", "FOO", "FP32\x00"])
DIMS = st.one_of(st.integers(-3, 20), st.sampled_from([2**62, 2**63 - 1, -(2**63), 2**32, 16]))
RAW = st.one_of(st.binary(max_size=100), st.just(SIXTEEN), st.just(elements(b"a", b"bc")), st.just(b"\xff" * 8))


def parameter() -> st.SearchStrategy[pb.InferParameter]:
    return st.one_of(
        st.builds(pb.InferParameter, int64_param=st.integers(-(2**63), 2**63 - 1)),
        st.builds(pb.InferParameter, uint64_param=st.integers(0, 2**64 - 1)),
        st.builds(pb.InferParameter, bool_param=st.booleans()),
        st.builds(pb.InferParameter, string_param=st.text(max_size=10)),
        st.builds(pb.InferParameter, double_param=st.floats()),
        st.just(pb.InferParameter()),
    )


KEYS = st.sampled_from(["priority", "sequence_id", "sequence_start", "x", "triton_x", "shared_memory_region", ""])
OUTPUT_KEYS = st.sampled_from(["classification", "shared_memory_region", "binary_data"])


@st.composite
def requests(draw: st.DrawFn) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(
        model_name=draw(MODELS),
        model_version=draw(st.sampled_from(["", "", "1", "7", "-1", "x"])),
        id=draw(st.text(max_size=8)),
        raw_input_contents=draw(st.lists(RAW, max_size=3)),
    )
    for key, value in draw(st.dictionaries(KEYS, parameter(), max_size=2)).items():
        request.parameters[key].CopyFrom(value)
    for _ in range(draw(st.integers(0, 3))):
        tensor = request.inputs.add(name=draw(NAMES), datatype=draw(TYPES), shape=draw(st.lists(DIMS, max_size=4)))
        if draw(st.booleans()):
            tensor.contents.int_contents.extend(draw(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4)))
            tensor.contents.bytes_contents.extend(draw(st.lists(st.binary(max_size=5), max_size=2)))
    for _ in range(draw(st.integers(0, 2))):
        output = request.outputs.add(name=draw(NAMES))
        for key, value in draw(st.dictionaries(OUTPUT_KEYS, parameter(), max_size=2)).items():
            output.parameters[key].CopyFrom(value)
    return request


def outcome(ingress: Ingress, encoded: bytes) -> tuple[str, str]:
    """The code and the message of one ModelInfer."""
    try:
        ingress.channel.unary_unary(MODEL_INFER)(encoded, timeout=60)
    except grpc.RpcError as error:
        return error.code().name, str(error.details())
    return "OK", ""


def good_request_succeeds(ingress: Ingress) -> None:
    answer = ingress.stub.ModelInfer(infer_request(), timeout=60)
    assert answer.raw_output_contents[0] == SIXTEEN
    assert ingress.alive()


@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(request=requests())
def _any_request_is_answered(ingress: Ingress, request: pb.ModelInferRequest) -> None:
    code, details = outcome(ingress, request.SerializeToString())
    assert code in {"OK", *CLIENT_CODES}, (code, details)
    assert code == "OK" or details


def test_any_request(ingress: Ingress) -> None:
    _any_request_is_answered(ingress)
    good_request_succeeds(ingress)


WHOLE = infer_request("two", [("A", "FP32", (4,)), ("B", "INT32", (2, 1))], (SIXTEEN, b"12345678"), ["OB"], version="1")


@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    bytes_=st.one_of(
        st.binary(max_size=300),
        st.integers(0, WHOLE.ByteSize()).map(lambda size: WHOLE.SerializeToString()[:size]),
        st.lists(st.tuples(st.integers(0, WHOLE.ByteSize() - 1), st.integers(0, 255)), min_size=1, max_size=4).map(
            lambda changes: _changed(WHOLE.SerializeToString(), changes)
        ),
    )
)
def _any_bytes_are_answered(ingress: Ingress, bytes_: bytes) -> None:
    code, details = outcome(ingress, bytes_)
    parse_failure = code == "INTERNAL" and details.startswith("Unable to parse request")
    assert parse_failure or code in {"OK", *CLIENT_CODES}, (code, details)


def _changed(whole: bytes, changes: list[tuple[int, int]]) -> bytes:
    changed = bytearray(whole)
    for place, value in changes:
        changed[place] = value
    return bytes(changed)


def test_any_bytes(ingress: Ingress) -> None:
    _any_bytes_are_answered(ingress)
    good_request_succeeds(ingress)


# Where tritonserver accepts, truncates or even dies, and the ingress says what is wrong.
STRICTER = {
    "shape overflows": (infer_request(inputs=[("INPUT0", "FP32", (2**62,))], raw=(b"",)), "more elements"),
    "shape overflows by product": (infer_request(inputs=[("INPUT0", "FP32", (2**62, 4))]), "more elements"),
    "string longer than the bytes": (
        infer_request("id_string", [("INPUT0", "BYTES", (1,))], (b"\xff\xff\xff\xffab",)),
        "only 2 are left",
    ),
    "more raw inputs than inputs": (infer_request(raw=(SIXTEEN, b"")), "expected 1 raw_input_contents"),
    "typed value too large": (typed_request("id_int8", "INT8", int_contents=[300, 1]), "does not fit"),
    "name with NUL": (infer_request("id_fp32\0x"), "NUL"),
    "version with a tail": (infer_request(version="1x"), "integral value"),
}


@pytest.mark.parametrize("name", STRICTER)
def test_stricter_than_tritonserver(name: str, ingress: Ingress) -> None:
    request, words = STRICTER[name]
    with pytest.raises(grpc.RpcError) as raised:
        ingress.stub.ModelInfer(request, timeout=60)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert words in str(raised.value.details())


def test_classes_of_strings_are_refused(ingress: Ingress) -> None:
    """tritonserver 2.51 dies of this request."""
    request = infer_request("id_string", [("INPUT0", "BYTES", (1,))], (elements(b"a"),), ["OUTPUT0"])
    request.outputs[0].parameters["classification"].int64_param = 1
    with pytest.raises(grpc.RpcError) as raised:
        ingress.stub.ModelInfer(request, timeout=60)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    good_request_succeeds(ingress)
