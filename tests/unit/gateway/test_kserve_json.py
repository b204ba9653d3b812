"""KServe requests as JSON and in binary form, against Triton's own client."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.grpc import service_pb2

from serving.errors import MeshError, NotSupported
from serving.gateway.queued.kserve_json import (
    BINARY,
    AnswerForm,
    answer_object,
    formed_answer,
    read_infer,
    read_infer_request,
)
from serving.openai.errors import InvalidRequest
from serving.sdk.tensors import decode_tensor, encode_tensor

LIMIT = 1 << 20
ARRAYS: dict[str, Any] = {
    "BOOL": np.array([True, False]),
    "INT8": np.array([-128, 127], np.int8),
    "UINT16": np.array([0, 65535], np.uint16),
    "INT64": np.array([[-(2**63)], [2**63 - 1]]),
    "UINT64": np.array([2**64 - 1], np.uint64),
    "FP16": np.array([0.5, -2], np.float16),
    "FP32": np.array([0.1, 3e38], np.float32),
    "FP64": np.array([1e300]),
    "BYTES": np.array(["ä", ""], dtype=object),
}


def read(body: Any, length: str = "", tail: bytes = b"") -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_infer_request(data + tail, length, "m", "2", LIMIT)


def tensors(message: Any) -> list[Any]:
    return [
        decode_tensor(one.name, one, raw) for one, raw in zip(message.inputs, message.raw_input_contents, strict=True)
    ]


def response(datatype: str, array: Any) -> bytes:
    made = service_pb2.ModelInferResponse(model_name="m", model_version="1", id="x")
    _, shape, raw = encode_tensor("x", array)
    made.outputs.add(name="o", datatype=datatype, shape=shape)
    made.raw_output_contents.append(bytes(raw))
    return bytes(made.SerializeToString())


WAYS = [(name, binary) for name in ARRAYS for binary in (True, False) if binary or name != "FP16"]  # JSON has no FP16


@pytest.mark.parametrize(("datatype", "binary"), WAYS)
def test_what_tritons_client_sends_and_reads(datatype: str, binary: bool) -> None:
    array = ARRAYS[datatype]
    tensor = triton.InferInput("n", list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    body, length = triton.InferenceServerClient.generate_request_body([tensor], request_id="7")
    message = read(body, str(length) if length is not None else "")
    assert (message.model_name, message.model_version, message.id) == ("m", "2", "7")
    (found,) = tensors(message)
    wanted = np.array([text.encode() for text in array.tolist()], dtype=object) if datatype == "BYTES" else array
    assert found.tolist() == wanted.tolist()
    assert list(found.shape) == list(array.shape)
    answer = response(datatype, array)
    if binary:
        data, head = formed_answer(answer, BINARY)
        result = triton.InferenceServerClient.parse_response_body(data, header_length=head)
    else:
        result = triton.InferenceServerClient.parse_response_body(json.dumps(answer_object(answer)).encode())
    assert np.array_equal(result.as_numpy("o"), wanted if binary else array)
    assert result.get_response()["model_name"] == "m"


def test_nested_data_and_parameters() -> None:
    message = read(
        {
            "parameters": {"a": True, "b": 3, "c": 0.5, "d": "x", "binary_data_output": True},
            "inputs": [{"name": "n", "datatype": "BF16", "shape": [2, 2], "data": [[1, 2], [3, 4.5]]}],
            "outputs": [{"name": "o", "parameters": {"classification": 3, "binary_data": False}}],
        }
    )
    assert tensors(message)[0].astype(float).tolist() == [[1, 2], [3, 4.5]]
    kinds = {name: value.WhichOneof("parameter_choice") for name, value in message.parameters.items()}
    assert kinds == {"a": "bool_param", "b": "int64_param", "c": "double_param", "d": "string_param"}
    assert dict(message.outputs[0].parameters).keys() == {"classification"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"data": [1]}, "inputs[0].data"),
        ({"data": [1, True]}, "inputs[0].data"),
        ({"data": [1, 1.5]}, "inputs[0].data"),
        ({"data": [1, 128]}, "inputs[0].data"),
        ({"data": "1"}, "inputs[0].data"),
        ({"datatype": "FP32", "data": [0, 1e39]}, "inputs[0].data"),
        ({"data": None}, "inputs[0].data"),
        ({"datatype": "INT7"}, "inputs[0].datatype"),
        ({"shape": [-2]}, "inputs[0].shape[0]"),
        ({"shape": 2}, "inputs[0].shape"),
        ({"shape": [1] * 33}, "inputs[0].shape"),
        ({"shape": [2**62, 2**62]}, "inputs[0].data"),
        ({"name": ""}, "inputs[0].name"),
        ({"parameters": {"binary_data_size": 9}}, "inputs[0].parameters.binary_data_size"),
        ({"parameters": {"x": [1]}}, "inputs[0].parameters.x"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], field: str) -> None:
    good = {"name": "n", "datatype": "INT8", "shape": [2], "data": [1, 2]}
    assert tensors(read({"inputs": [good]}))[0].tolist() == [1, 2]
    with pytest.raises(InvalidRequest) as error:
        read({"inputs": [good | change]})
    assert error.value.param == field
    assert len(error.value.message) < 300


def test_binary_tails_must_fit() -> None:
    head = json.dumps(
        {"inputs": [{"name": "n", "datatype": "INT8", "shape": [2], "parameters": {"binary_data_size": 2}}]}
    ).encode()
    assert tensors(read(head, str(len(head)), b"\x01\x02"))[0].tolist() == [1, 2]
    for length, tail in ((str(len(head)), b"\x01\x02\x03"), (str(len(head)), b"\x01"), ("9999", b""), ("-1", b"")):
        with pytest.raises(InvalidRequest):
            read(head, length, tail)


def test_sequences_do_not_wait() -> None:
    with pytest.raises(NotSupported, match="sequences"):
        read({"parameters": {"sequence_id": 7}, "inputs": []})
    assert read({"parameters": {"sequence_id": 0}, "inputs": []}).parameters["sequence_id"].int64_param == 0


@pytest.mark.parametrize("array", [np.array([np.inf]), np.array([b"\xff"], dtype=object)])
def test_what_json_cannot_say(array: Any) -> None:
    datatype = "BYTES" if array.dtype.kind == "O" else "FP64"
    with pytest.raises(MeshError, match="binary=true"):
        answer_object(response(datatype, array))
    assert formed_answer(response(datatype, array), BINARY)[1] > 0


@pytest.mark.parametrize(
    ("parameters", "outputs", "wanted"),
    [
        (None, None, AnswerForm()),
        ({"binary_data_output": True}, [{"name": "o"}], AnswerForm(every=True)),
        (
            {"binary_data_output": False},
            [{"name": "o", "parameters": {"binary_data": True}}],
            AnswerForm(named={"o": True}),
        ),
    ],
)
def test_the_form_of_the_answer_is_the_clients(parameters: Any, outputs: Any, wanted: AnswerForm) -> None:
    body = {"inputs": [], "parameters": parameters, "outputs": outputs}
    form = read_infer(json.dumps(body).encode(), "", "m", "", LIMIT)[1]
    assert (form.every, form.is_binary("o")) == (wanted.every, wanted.is_binary("o"))


def test_outputs_of_both_forms_stand_in_one_answer() -> None:
    made = service_pb2.ModelInferResponse(model_name="m", model_version="1")
    for name in ("a", "b"):
        made.outputs.add(name=name, datatype="INT64", shape=[2])
        made.raw_output_contents.append(np.array([1, 2]).tobytes())
    data, head = formed_answer(made.SerializeToString(), AnswerForm(named={"b": True}))
    result = triton.InferenceServerClient.parse_response_body(data, header_length=head)
    assert [result.as_numpy(name).tolist() for name in ("a", "b")] == [[1, 2], [1, 2]]
    assert len(data) - head == 16
