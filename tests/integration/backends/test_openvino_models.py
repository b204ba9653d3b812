"""What models the OpenVINO backend takes: datatypes, dynamic shapes, configurations completed from the file."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from backend_models import DIGITS_MODEL, adder, adder_config, onnx_model, passthrough_ir
from backend_server import BackendServer
from onnx import TensorProto

NUMBERS = {
    "i8": np.int8,
    "i16": np.int16,
    "i32": np.int32,
    "i64": np.int64,
    "u8": np.uint8,
    "u16": np.uint16,
    "u32": np.uint32,
    "u64": np.uint64,
    "f16": np.float16,
    "f32": np.float32,
    "f64": np.float64,
}


@pytest.mark.parametrize("element", sorted(NUMBERS))
def test_numbers_of_every_datatype(triton_server: BackendServer, tmp_path: Path, element: str) -> None:
    model = triton_server.load(f"numbers_{element}", None, passthrough_ir(element, tmp_path))
    values = np.array([[1, 2, 100], [0, 7, 3]]).astype(NUMBERS[element])
    for rows in (values, values[:1]):
        answer = triton_server.infer(model, {"INPUT": rows})["OUTPUT"]
        assert answer.dtype == values.dtype
        np.testing.assert_array_equal(answer, np.concatenate([rows, rows], axis=1))


def test_booleans(triton_server: BackendServer, tmp_path: Path) -> None:
    model = triton_server.load("booleans", None, passthrough_ir("boolean", tmp_path))
    values = np.array([[True, False, True]])
    np.testing.assert_array_equal(
        triton_server.infer(model, {"INPUT": values})["OUTPUT"], np.concatenate([values, values], axis=1)
    )


def test_bf16(triton_server: BackendServer, tmp_path: Path) -> None:
    model = triton_server.load("bf16", None, passthrough_ir("bf16", tmp_path))
    item = triton_grpc.InferInput("INPUT", [1, 2], "BF16")
    item.set_data_from_numpy(np.array([[1.5, -2.0]], ml_dtypes.bfloat16))
    answer = triton_server.client.infer(model, [item])
    assert answer.get_output("OUTPUT").datatype == "BF16"
    np.testing.assert_array_equal(answer.as_numpy("OUTPUT").astype(np.float32), [[1.5, -2.0, 1.5, -2.0]])


def test_strings(triton_server: BackendServer, tmp_path: Path) -> None:
    config = """
    backend: "openvino"
    input [ { name: "INPUT" data_type: TYPE_STRING dims: [ -1, -1 ] } ]
    output [ { name: "OUTPUT" data_type: TYPE_STRING dims: [ -1, -1 ] } ]
    """
    model = triton_server.load("strings", config, passthrough_ir("string", tmp_path))
    texts = np.array([[b"", b"a", "grün".encode()], [b"\x00\xff", b"x" * 5000, b"end"]], dtype=object)
    for rows in (texts, texts[1:]):
        np.testing.assert_array_equal(triton_server.infer(model, {"INPUT": rows})["OUTPUT"], rows)


def test_no_elements(triton_server: BackendServer, tmp_path: Path) -> None:
    model = triton_server.load("empty", None, passthrough_ir("f32", tmp_path))
    assert triton_server.infer(model, {"INPUT": np.zeros((2, 0), np.float32)})["OUTPUT"].shape == (2, 0)


def test_config_completed_for_a_model_that_batches(triton_server: BackendServer) -> None:
    model = triton_server.load("completed", None, {"1/model.onnx": DIGITS_MODEL})
    config = triton_server.client.get_model_config(model).config
    assert config.max_batch_size == 4, "Triton's default-max-batch-size"
    assert config.HasField("dynamic_batching")
    assert [(item.name, list(item.dims), item.data_type) for item in config.input] == [("image", [64], 11)]
    assert [(item.name, list(item.dims)) for item in config.output] == [("logits", [10]), ("probabilities", [10])]


def test_config_completed_for_a_model_that_does_not_batch(triton_server: BackendServer) -> None:
    model = triton_server.load("fixed", None, {"1/model.onnx": adder((2, 3))})
    config = triton_server.client.get_model_config(model).config
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert [(item.name, list(item.dims)) for item in config.input] == [("LEFT", [2, 3]), ("RIGHT", [2, 3])]
    values = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(triton_server.infer(model, {"LEFT": values, "RIGHT": values})["SUM"], values * 2)


def test_config_completed_in_part(triton_server: BackendServer) -> None:
    config = 'backend: "openvino"\nmax_batch_size: 16\ndefault_model_filename: "net.onnx"\n'
    model = triton_server.load("partly", config, {"1/net.onnx": DIGITS_MODEL})
    completed = triton_server.client.get_model_config(model).config
    assert completed.max_batch_size == 16
    assert [list(item.dims) for item in completed.output] == [[10], [10]]
    assert triton_server.infer(model, {"image": np.zeros((16, 64), np.float32)})["logits"].shape == (16, 10)


def test_scalars_per_row(triton_server: BackendServer) -> None:
    nodes = [("ReduceMax", ["X"], ["MOST"], {"keepdims": 0, "axes": [1]})]
    model = triton_server.load(
        "scalars",
        None,
        {
            "1/model.onnx": onnx_model(
                nodes, {"X": (TensorProto.FLOAT, ("n", 3))}, {"MOST": (TensorProto.FLOAT, ("n",))}
            )
        },
    )
    rows = np.array([[1, 5, 2], [9, 0, 3]], np.float32)
    np.testing.assert_array_equal(triton_server.infer(model, {"X": rows})["MOST"].reshape(-1), [5, 9])


def test_shapes_that_depend_on_the_data(triton_server: BackendServer) -> None:
    content = onnx_model(
        [("NonZero", ["X"], ["PLACES"], {})],
        {"X": (TensorProto.FLOAT, ("n",))},
        {"PLACES": (TensorProto.INT64, (1, "found"))},
    )
    model = triton_server.load("places", 'backend: "openvino"', {"1/model.onnx": content})
    for values, places in (([0, 3, 0, 4], [1, 3]), ([1], [0]), ([0, 0], []), ([5] * 40, list(range(40)))):
        answer = triton_server.infer(model, {"X": np.array(values, np.float32)})["PLACES"]
        np.testing.assert_array_equal(answer, np.array([places], np.int64))


def test_changing_shapes_of_one_model(triton_server: BackendServer) -> None:
    model = triton_server.load("any_length", None, {"1/model.onnx": adder(("batch", "length"))})
    generator = np.random.default_rng(5)
    for rows, length in ((1, 1), (4, 7), (2, 300), (1, 2), (3, 7)):
        left, right = (generator.normal(size=(rows, length)).astype(np.float32) for _ in range(2))
        answer = triton_server.infer(model, {"LEFT": left, "RIGHT": right})
        np.testing.assert_array_equal(answer["SUM"], left + right)
        np.testing.assert_array_equal(answer["DIFFERENCE"], left - right)


def test_reshape_of_the_config(triton_server: BackendServer) -> None:
    config = adder_config(dims="2, 2").replace("dims: [ 2, 2 ]", "dims: [ 2, 2 ] reshape { shape: [ 4 ] }")
    model = triton_server.load("reshaped", config, {"1/model.onnx": adder()})
    values = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    np.testing.assert_array_equal(triton_server.infer(model, {"LEFT": values, "RIGHT": values})["SUM"], values * 2)
