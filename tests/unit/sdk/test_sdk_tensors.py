"""Arrays as KServe tensors."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tritonclient.grpc import InferInput, service_pb2

from serving.errors import DataLoss, InvalidArgument
from serving.sdk import BF16
from serving.sdk import tensors as module
from serving.sdk.tensors import decode_response, encode_request

numeric = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
)


def sent(inputs: dict[str, Any], **options: Any) -> Any:
    """What a server reads."""
    return service_pb2.ModelInferRequest.FromString(encode_request("m", inputs, **options).SerializeToString())


def echoed(request: Any) -> Any:
    """The answer of a server that sends its inputs back."""
    answer = service_pb2.ModelInferResponse(model_name="m")
    for tensor in request.inputs:
        answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    answer.raw_output_contents.extend(request.raw_input_contents)
    return answer


@given(hnp.arrays(numeric, hnp.array_shapes(min_dims=0, min_side=0, max_side=5)))
def test_numbers_there_and_back(array: Any) -> None:
    answer = decode_response(echoed(sent({"x": array})))["x"]
    np.testing.assert_array_equal(answer, array)
    assert answer.shape == array.shape
    assert answer.dtype == array.dtype.newbyteorder("<")


@given(hnp.arrays(numeric, hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=5)))
def test_views_that_are_not_contiguous(array: Any) -> None:
    for view in (array.T, array[::-1], array[..., ::2]):
        np.testing.assert_array_equal(decode_response(echoed(sent({"x": view})))["x"], view)


@given(st.lists(st.one_of(st.text(), st.binary()), max_size=20))
def test_texts_and_bytes_there_and_back(items: list[str | bytes]) -> None:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    answer = decode_response(echoed(sent({"x": array})))["x"]
    assert answer.tolist() == [item.encode() if isinstance(item, str) else item for item in items]


@given(hnp.arrays(np.float32, st.integers(0, 50), elements=st.floats(width=32)))
def test_bf16_rounds_as_ml_dtypes_does(array: Any) -> None:
    expected = array.astype(ml_dtypes.bfloat16)
    (raw,) = sent({"x": BF16(array)}).raw_input_contents
    got = np.frombuffer(raw, dtype=ml_dtypes.bfloat16)
    np.testing.assert_array_equal(got.astype(np.float32), expected.astype(np.float32))
    assert sent({"x": expected}).inputs[0].datatype == "BF16"


def test_bf16_without_ml_dtypes_is_read_as_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_bfloat16", lambda: None)
    answer = decode_response(echoed(sent({"x": BF16([1.5, -2.0, 3e38])})))["x"]
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, [1.5, -2.0, 3e38], rtol=1e-2)


@pytest.mark.parametrize(
    ("value", "datatype"),
    [([1, 2], "INT64"), ([1.5], "FP64"), (["a"], "BYTES"), (b"a", "BYTES"), (True, "BOOL"), (np.float16(1), "FP16")],
)
def test_plain_values(value: Any, datatype: str) -> None:
    tensor = sent({"x": value}).inputs[0]
    assert (tensor.datatype, list(tensor.shape)) == (datatype, list(np.shape(value)))


def test_the_message_is_what_tritonclient_sends() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    theirs = InferInput("x", [2, 3], "FP32")
    theirs.set_data_from_numpy(array)
    request = sent({"x": array}, outputs=["y"], version="2", request_id="7", parameters={"a": 1, "b": "t", "c": True})
    assert request.raw_input_contents[0] == theirs._get_content()
    assert request.inputs[0] == theirs._get_tensor()
    assert (request.model_name, request.model_version, request.id) == ("m", "2", "7")
    assert [output.name for output in request.outputs] == ["y"]
    assert request.parameters["a"].int64_param == 1
    assert request.parameters["b"].string_param == "t"
    assert request.parameters["c"].bool_param is True


@pytest.mark.parametrize(
    ("inputs", "parameters", "says"),
    [
        ({"x": np.array([1j])}, None, "input x has the type complex128"),
        ({"x": np.array(["2020-01-01"], dtype="M8[D]")}, None, "input x has the type datetime64"),
        ({"x": [[1], [1, 2]]}, None, "input x is not a tensor"),
        ({"x": np.array([b"a", 5], dtype=object)}, None, "input x, element 1: expects a text or bytes, got int"),
        ({"x": None}, None, "input x, element 0"),
        ({}, {"a": 1 << 70}, "parameter a .* 64 bits"),
        ({}, {"a": None}, "parameter a is a NoneType"),
        ({}, {"a": "\ud800"}, "malformed"),
        ({"\ud800": 1}, None, "malformed"),
        ({5: 1}, None, "malformed"),
        ({"x": np.array(["\ud800"], dtype=object)}, None, "input x, element 0: .* no text"),
    ],
)
def test_what_is_no_tensor(inputs: dict[str, Any], parameters: Any, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        encode_request("m", inputs, parameters=parameters)


def test_outputs_are_views_of_the_answer() -> None:
    answer = decode_response(echoed(sent({"x": np.zeros(4)})))["x"]
    assert not answer.flags.writeable
    assert not answer.flags.owndata


@pytest.mark.parametrize(
    ("datatype", "field", "values"),
    [
        ("FP32", "fp32_contents", [1.0, 2.0]),
        ("INT8", "int_contents", [1, -2]),
        ("UINT64", "uint64_contents", [1, 2]),
        ("BOOL", "bool_contents", [True, False]),
        ("BYTES", "bytes_contents", [b"a", b""]),
    ],
)
def test_typed_contents_are_read_too(datatype: str, field: str, values: list[Any]) -> None:
    answer = service_pb2.ModelInferResponse()
    output = answer.outputs.add(name="x", datatype=datatype, shape=[2])
    getattr(output.contents, field).extend(values)
    assert decode_response(answer)["x"].tolist() == values


@pytest.mark.parametrize(
    ("datatype", "shape", "raw", "says"),
    [
        ("FP32", [2], b"123", "no multiple of 4"),
        ("FP32", [2], b"1234", r"has 1 elements, its shape is \[2\]"),
        ("FP32", [1] * 70, b"1234", "x cannot have its shape of 70 dimensions: "),
        ("FP32", [1 << 62, 0], b"", "x cannot have its shape of 2 dimensions: "),
        ("BYTES", [1] * 70, b"\0\0\0\0", "x cannot have its shape of 70 dimensions: "),
        ("BYTES", [1], b"\xff\0\0\0a", "is cut off"),
        ("BYTES", [1], b"\x01", "is cut off"),
        ("FP8", [1], b"a", "unknown datatype"),
        ("BF16", [1], b"a", "no multiple of 2"),
    ],
)
def test_damaged_answers(datatype: str, shape: list[int], raw: bytes, says: str) -> None:
    answer = service_pb2.ModelInferResponse(raw_output_contents=[raw])
    answer.outputs.add(name="x", datatype=datatype, shape=shape)
    with pytest.raises(DataLoss, match=says):
        decode_response(answer)
    answer.raw_output_contents.append(b"")
    with pytest.raises(DataLoss, match="1 outputs, contents of 2"):
        decode_response(answer)
