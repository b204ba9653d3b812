"""Models and requests that cannot work are answered with what is wrong, where; the server lives on."""

from __future__ import annotations

import concurrent.futures
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import tritonclient.grpc as triton_grpc
from backend_models import DIGITS_CONFIG, DIGITS_MODEL, adder, adder_config, ir_files, onnx_model
from backend_server import BackendServer, make_inputs
from onnx import TensorProto
from openvino import opset13 as ops

ONE_INPUT = 'input [ { name: "image" data_type: TYPE_FP32 dims: [ 64 ] } ]'


def digits_with(old: str, new: str) -> str:
    assert old in DIGITS_CONFIG
    return DIGITS_CONFIG.replace(old, new)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            digits_with("dims: [ 64 ]", "dims: [ 1, 8, 8 ]"),
            "model 'digits': input 'image' has 2 dims, config says 4 (the batch dimension included)",
        ),
        (
            digits_with("dims: [ 64 ]", "dims: [ 63 ]"),
            "model 'digits': input 'image' has shape [-1,64], config says [-1,63] (the batch dimension included)",
        ),
        (
            digits_with('"image" data_type: TYPE_FP32', '"image" data_type: TYPE_FP64'),
            "model 'digits': input 'image' has datatype FP32, config says FP64",
        ),
        (
            digits_with('"probabilities" data_type: TYPE_FP32', '"probabilities" data_type: TYPE_INT8'),
            "model 'digits': output 'probabilities' has datatype FP32, config says INT8",
        ),
        (
            digits_with('"image"', '"picture"'),
            "model 'digits': config names input 'picture', the model's inputs are 'image'",
        ),
        (
            digits_with('"logits"', '"logit"'),
            "model 'digits': config names output 'logit', the model's outputs are 'logits', 'probabilities'",
        ),
        (
            digits_with("KIND_CPU", "KIND_GPU"),
            "GPU",
        ),
    ],
)
def test_config_that_does_not_fit_the_model(triton_server: BackendServer, config: str, reason: str) -> None:
    assert reason in triton_server.refusal("digits", config, {"1/model.onnx": DIGITS_MODEL})


def test_dims_without_batches_are_counted_alike(triton_server: BackendServer) -> None:
    config = adder_config(dims="1, 2, 3, 4", max_batch_size=0)
    reason = triton_server.refusal("adder", config, {"1/model.onnx": adder((2, 3, 4))})
    assert reason.rstrip(";\n").endswith(": model 'adder': input 'LEFT' has 3 dims, config says 4")


def test_input_that_the_config_leaves_out(triton_server: BackendServer) -> None:
    config = adder_config().replace(', { name: "RIGHT" data_type: TYPE_FP32 dims: [ 4 ] }', "")
    reason = triton_server.refusal("adder", config, {"1/model.onnx": adder()})
    assert "model 'adder': the model has 2 inputs ('LEFT', 'RIGHT'), config says 1" in reason


def test_batches_of_a_model_with_fixed_rows(triton_server: BackendServer) -> None:
    reason = triton_server.refusal("adder", adder_config(), {"1/model.onnx": adder((1, 4))})
    assert (
        "max_batch_size is 8, but the first dimension of input 'LEFT' is fixed at 1; set max_batch_size to 0" in reason
    )


@pytest.mark.parametrize("keep", [0, 1, 1000, 40000])
def test_truncated_model(triton_server: BackendServer, keep: int) -> None:
    content = DIGITS_MODEL.read_bytes()[:keep]
    reason = triton_server.refusal("digits", DIGITS_CONFIG, {"1/model.onnx": content})
    assert "model 'digits': " in reason
    assert "/1/model.onnx cannot be read: " in reason
    assert "src/" not in reason, "no trace of OpenVINO's sources"


def test_rubbish_instead_of_a_model(triton_server: BackendServer) -> None:
    for content in (b"not a model\n" * 100, bytes(range(256)) * 50):
        assert "/1/model.onnx cannot be read: " in triton_server.refusal(
            "digits", DIGITS_CONFIG, {"1/model.onnx": content}
        )


def test_missing_file(triton_server: BackendServer) -> None:
    reason = triton_server.refusal("digits", DIGITS_CONFIG, {"1/other.onnx": DIGITS_MODEL})
    assert "model 'digits': there is no model.onnx or model.xml in " in reason
    assert "(which holds other.onnx)" in reason


def test_missing_file_that_the_config_names(triton_server: BackendServer) -> None:
    config = digits_with('"model.onnx"', '"digits.onnx"')
    reason = triton_server.refusal("digits", config, {"1/model.onnx": DIGITS_MODEL})
    assert "model 'digits': there is no 'digits.onnx' in " in reason
    assert "(which holds model.onnx)" in reason


def test_weights_file_missing_beside_the_ir(triton_server: BackendServer, tmp_path: Path) -> None:
    ov.save_model(ov.Core().read_model(DIGITS_MODEL), tmp_path / "model.xml")
    reason = triton_server.refusal("weightless", None, {"1/model.xml": tmp_path / "model.xml"})
    assert "model 'weightless': " in reason
    assert "/1/model.xml cannot be read: " in reason


def test_datatype_that_triton_does_not_have(triton_server: BackendServer, tmp_path: Path) -> None:
    parameter = ops.parameter(ov.PartialShape([-1, 4]), ov.Type.u4, name="INPUT")
    result = ops.result(ops.convert(parameter, "f32"))
    reason = triton_server.refusal("nibbles", None, ir_files(ov.Model([result], [parameter], "nibbles"), tmp_path))
    assert "model 'nibbles': input 'INPUT' has datatype u4, which cannot be served" in reason


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("NUM_STREAMS", "many", "OpenVINO cannot compile it: "),
        ("NO_SUCH_PROPERTY", "1", "NO_SUCH_PROPERTY"),
        ("TARGET_DEVICE", "GPU", "TARGET_DEVICE is 'GPU', this backend computes on CPU only"),
    ],
)
def test_parameters_that_are_refused(triton_server: BackendServer, key: str, value: str, reason: str) -> None:
    parameter = f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'
    refusal = triton_server.refusal("digits", DIGITS_CONFIG + parameter, {"1/model.onnx": DIGITS_MODEL})
    assert "model 'digits'" in refusal
    assert reason in refusal


def test_operator_that_openvino_does_not_know(triton_server: BackendServer) -> None:
    from onnx import helper

    graph = helper.make_graph(
        [helper.make_node("Mystery", ["X"], ["Y"], domain="example.com")],
        "custom",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["n", 2])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("example.com", 1)]
    content = bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
    reason = triton_server.refusal("custom", 'backend: "openvino"', {"1/model.onnx": content})
    assert "model 'custom'" in reason
    assert "Mystery" in reason


def test_wrong_requests_leave_the_model_in_order(triton_server: BackendServer) -> None:
    model = triton_server.load("digits", DIGITS_CONFIG, {"1/model.onnx": DIGITS_MODEL})
    wrong = [
        {"image": np.zeros((1, 63), np.float32)},
        {"image": np.zeros((1, 64), np.float64)},
        {"image": np.zeros((64,), np.float32)},
        {"picture": np.zeros((1, 64), np.float32)},
        {},
    ]
    for inputs in wrong:
        with pytest.raises(triton_grpc.InferenceServerException, match="INVALID_ARGUMENT"):
            triton_server.client.infer(model, make_inputs(inputs))
    assert triton_server.infer(model, {"image": np.zeros((1, 64), np.float32)})["logits"].shape == (1, 10)


def test_inputs_that_do_not_fit_each_other_leave_other_requests_alone(triton_server: BackendServer) -> None:
    """Both inputs may have any length; only equal ones can be added. OpenVINO itself would read beyond their ends."""
    model = triton_server.load("lengths", None, {"1/model.onnx": adder(("batch", "length"))})

    def ask(length: int) -> str:
        left, right = np.full((2, 4), 3, np.float32), np.ones((2, length), np.float32)
        try:
            return str(triton_server.infer(model, {"LEFT": left, "RIGHT": right})["SUM"].sum())
        except triton_grpc.InferenceServerException as error:
            return str(error.message())

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, [4, 3] * 16))
    assert answers[::2] == ["32.0"] * 16
    for answer in answers[1::2]:
        assert "the model cannot compute inputs of shapes [?,4], [?,3]: " in answer
        assert "src/" not in answer, "no trace of OpenVINO's sources"
    assert triton_server.statistics(model).inference_stats.fail.count == 16


def test_model_that_cannot_batch_although_its_shapes_say_so(triton_server: BackendServer) -> None:
    content = onnx_model(
        [("ReduceSum", ["X"], ["TOTAL"], {"keepdims": 1})],
        {"X": (TensorProto.FLOAT, ("n", 4))},
        {"TOTAL": (TensorProto.FLOAT, ("m", "k"))},
    )
    config = """
    backend: "openvino"
    max_batch_size: 8
    input [ { name: "X" data_type: TYPE_FP32 dims: [ 4 ] } ]
    output [ { name: "TOTAL" data_type: TYPE_FP32 dims: [ 1 ] } ]
    """
    reason = triton_server.refusal("summing", config, {"1/model.onnx": content})
    assert "model 'summing': " in reason
    assert "output 'TOTAL'" in reason
    assert "set max_batch_size to 0" in reason
